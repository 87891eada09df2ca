"""The rules that decide a vector without a word of warning when they are wrong: activation, padding, pooling, context,
projection, normalisation, interpolation. Each test fails when the rule is not the checkpoint's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.encoder import Encoder, load_encoder
from models.errors import BrokenCheckpoint, UnsupportedModel
from models.image_config import read_image_config
from models.pipeline import open_pipeline
from tests.models.families.builders import (
    PROCESSORS,
    build_altclip,
    build_chinese_clip,
    build_dinov2,
    build_metaclip_2,
    build_naflex,
    build_resnet,
    own_images,
    own_texts,
)
from tests.models.test_checkpoint import edit
from tests.models.test_encoder import TEXTS, assert_same, images_of, texts_of
from tests.models.test_preprocess import RAW, noise, own
from tests.models.tiny_checkpoints import CONTEXT, SIDE, build_clip

BUILDERS = {"metaclip_2": build_metaclip_2, "altclip": build_altclip, "chinese_clip": build_chinese_clip}


def opened(folder: Path) -> Encoder:
    return load_encoder(str(folder), device="cpu")


def nested(folder: Path, tower: str, **changes: object) -> None:
    """Change keys of one tower in config.json."""
    config = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", **{tower: {**config[tower], **changes}})


@pytest.mark.parametrize("build", [build_clip, build_metaclip_2])
def test_an_activation_in_the_configuration_alone_makes_another_space(
    build: Any, tmp_path: Path, pictures: list[np.ndarray]
) -> None:
    quick, exact = build(tmp_path / "quick"), build(tmp_path / "exact", hidden_act="gelu")
    ours = {folder: (images_of(opened(folder), pictures), texts_of(opened(folder), TEXTS)) for folder in (quick, exact)}
    for folder, (images, texts) in ours.items():
        assert_same(images, own_images(folder, pictures))
        assert_same(texts, own_texts(folder, TEXTS))
    assert min(np.abs(a - b).max() for a, b in zip(*ours.values(), strict=True)) > 1e-2
    passports = [open_pipeline(str(folder)).passport("float32") for folder in (quick, exact)]
    assert passports[0].differences(passports[1]) == ["towers"]
    assert "hidden_act quick_gelu" in str(passports[0].towers)


@pytest.mark.parametrize("kind", ["altclip", "chinese_clip"])
def test_padding_is_hidden_from_a_tower_that_sees_all_positions(kind: str, tmp_path: Path) -> None:
    encoder = opened(BUILDERS[kind](tmp_path / kind))
    prepared = [encoder.prepare_text(text) for text in ("a cat", "the cat " * 40)]
    batch = encoder._text.batch(prepared)  # type: ignore[union-attr]
    assert batch["attention_mask"].sum(1).tolist() == [len(text.ids) for text in prepared]
    with torch.inference_mode():
        seen = encoder._network.texts(**batch | {"attention_mask": torch.ones_like(batch["attention_mask"])}).numpy()  # type: ignore[misc]
    assert np.abs(seen - encoder.encode_texts(prepared))[0].max() > 1e-2
    assert encoder.passport.text_padding == f"longest in batch, right, id {int(kind == 'altclip')}, masked"


@pytest.mark.parametrize(
    ("kind", "pooling"),
    [("metaclip_2", "first id 2"), ("altclip", "first position"), ("chinese_clip", "first position")],
)
@pytest.mark.parametrize("tokenizer_context", [9, CONTEXT, 512])
def test_the_shorter_context_of_tokenizer_and_tower_counts(
    kind: str, pooling: str, tokenizer_context: int, tmp_path: Path
) -> None:
    """XLM-R's tokenizers say 512 where the towers take 77, or the tower's table has rows that positions never reach."""
    encoder = opened(BUILDERS[kind](tmp_path / kind, tokenizer_context=tokenizer_context))
    expected = min(tokenizer_context, CONTEXT)
    assert encoder.context_length == encoder.passport.context_length == expected
    for text in ("the cat " * 40, "x " * 512):
        prepared = encoder.prepare_text(text)
        assert (len(prepared.ids), prepared.truncated) == (expected, True)
        assert np.isfinite(encoder.encode_texts([prepared])).all()
    assert encoder.passport.pooling == f"image: class token; text: {pooling}"


def test_an_end_token_that_the_tokenizer_does_not_give_is_refused(tmp_path: Path) -> None:
    folder = build_metaclip_2(tmp_path / "other-end")
    nested(folder, "text_config", eos_token_id=7)
    with pytest.raises(BrokenCheckpoint, match=r"pools texts at token 7, .* every text would get one vector"):
        open_pipeline(str(folder))


def test_a_padding_token_that_is_not_the_towers_is_refused(tmp_path: Path) -> None:
    folder = build_altclip(tmp_path / "other-pad")
    nested(folder, "text_config", pad_token_id=3)
    with pytest.raises(BrokenCheckpoint, match="pads texts with token 1, but its text tower takes 3 for padding"):
        open_pipeline(str(folder))


def test_naflex_reads_more_of_a_long_image_than_a_square_would(tmp_path: Path) -> None:
    encoder = opened(build_naflex(tmp_path / "naflex"))
    wide = encoder.prepare_image(noise(20, 200))
    assert wide.shape[1] > 3 * wide.shape[0]
    assert wide.shape[0] % 8 == wide.shape[1] % 8 == 0
    assert wide.shape[0] * wide.shape[1] <= 12 * 64
    assert encoder.image_size is None


def test_naflex_patches_of_another_side_are_refused(tmp_path: Path) -> None:
    folder = build_naflex(tmp_path / "naflex")
    edit(folder / "preprocessor_config.json", patch_size=16)
    with pytest.raises(BrokenCheckpoint, match="cuts patches of 16 pixels, but its vision tower takes 8"):
        open_pipeline(str(folder))
    edit(folder / "preprocessor_config.json", do_resize=False)
    with pytest.raises(UnsupportedModel, match="does not resize"):
        open_pipeline(str(folder))


@pytest.mark.parametrize("architecture", ["Dinov2ForImageClassification", "Dinov2WithRegistersForImageClassification"])
def test_the_head_of_a_classifier_is_left_out(architecture: str, tmp_path: Path, pictures: list[np.ndarray]) -> None:
    folder = build_dinov2(tmp_path / "classifier", architecture=architecture)
    assert_same(images_of(opened(folder), pictures), own_images(folder, pictures))


def test_a_resnet_classifier_gives_its_pooled_features(tmp_path: Path, pictures: list[np.ndarray]) -> None:
    folder = build_resnet(tmp_path / "classifier", architecture="ResNetForImageClassification")
    ours = images_of(opened(folder), pictures)
    assert_same(ours, own_images(folder, pictures))
    assert ours.shape[1] == 24  # its last stage, not its three classes


def test_images_of_varying_size_make_no_batch(tmp_path: Path) -> None:
    folder = build_dinov2(tmp_path / "uncropped")
    edit(folder / "preprocessor_config.json", do_center_crop=False)
    with pytest.raises(BrokenCheckpoint, match=r"images of varying size.*set do_center_crop"):
        open_pipeline(str(folder))


def test_resnet_sees_the_middle_that_crop_pct_leaves(tmp_path: Path, pictures: list[np.ndarray]) -> None:
    folder = build_resnet(tmp_path / "resnet")
    before = images_of(opened(folder), pictures)
    edit(folder / "preprocessor_config.json", crop_pct=0.5)
    after = images_of(opened(folder), pictures)
    assert_same(after, own_images(folder, pictures))
    assert np.abs(after - before)[3].max() > 1e-2  # 100 x 90: twice as close


OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("Bit", {"size": {"shortest_edge": SIDE + 5}, "crop_size": {"height": SIDE, "width": SIDE}}),
    ("ChineseCLIP", {"size": {"height": SIDE, "width": SIDE}, "do_center_crop": False}),
    ("ConvNext", {"size": {"shortest_edge": SIDE}, "crop_pct": 0.875}),
    ("ConvNext", {"size": {"shortest_edge": SIDE}, "crop_pct": 0.95}),
    ("ConvNext", {"size": {"shortest_edge": 384}}),
    ("Siglip2", {"patch_size": 8, "max_num_patches": 20}),
    ("Siglip2", {"patch_size": 16, "max_num_patches": 256}),
]


@settings(max_examples=40, deadline=None)
@given(st.integers(5, 120), st.integers(5, 120), st.sampled_from(OPTIONS), st.sampled_from([2, 3]))
def test_pixels_equal_those_of_transformers(
    height: int, width: int, option: tuple[str, dict[str, Any]], resample: int
) -> None:
    processor, config = option[0], {**option[1], "resample": resample}
    image = noise(height, width)
    prepared = read_image_config(config, processor).apply(image)
    if processor != "Siglip2":
        assert np.array_equal(prepared, own(PROCESSORS[processor], config, image))
        return
    theirs = PROCESSORS[processor](**config, **RAW)([image], input_data_format="channels_last")
    side, (rows, columns) = config["patch_size"], theirs["spatial_shapes"][0]
    assert prepared.shape == (rows * side, columns * side, 3)
    patches = prepared.reshape(rows, side, columns, side, 3).swapaxes(1, 2).reshape(rows * columns, -1)
    assert np.array_equal(patches, np.asarray(theirs["pixel_values"][0])[: rows * columns])


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 20_000), st.integers(1, 20_000), st.sampled_from([(16, 256), (16, 1024), (14, 729), (8, 5)]))
def test_naflex_sizes_equal_those_of_transformers(height: int, width: int, patches: tuple[int, int]) -> None:
    from transformers.models.siglip2.image_processing_pil_siglip2 import get_image_size_for_max_num_patches

    pipeline = read_image_config({"patch_size": patches[0], "max_num_patches": patches[1]}, "Siglip2")
    assert pipeline._resized(height, width) == get_image_size_for_max_num_patches(height, width, *patches)


@pytest.mark.parametrize(
    ("processor", "mean", "filter_"),
    [("CLIP", 0.48145466, 3), ("ChineseCLIP", 0.48145466, 3), ("Bit", 0.48145466, 3), ("Siglip", 0.5, 3),
     ("Siglip2", 0.5, 2), ("ConvNext", 0.5, 3)],
)  # fmt: skip
def test_what_a_file_leaves_out_is_the_default_of_its_processor(processor: str, mean: float, filter_: int) -> None:
    ours = read_image_config({"image_processor_type": f"{processor}ImageProcessor"}, "CLIP")
    theirs = PROCESSORS[processor]()
    assert (ours.mean[0], ours.resample) == (mean, filter_)
    assert (ours.mean, ours.std) == (tuple(theirs.image_mean), tuple(theirs.image_std))
    assert (ours.resample, ours.scale) == (int(theirs.resample), theirs.rescale_factor)


@pytest.mark.parametrize(
    ("processor", "change"),
    [("ConvNext", {"crop_pct": 0.9}), ("Siglip2", {"max_num_patches": 100}), ("Siglip2", {"patch_size": 14})],
)
def test_the_rules_of_a_family_are_in_the_digest(processor: str, change: dict[str, Any]) -> None:
    plain = {"size": {"shortest_edge": SIDE}} if processor == "ConvNext" else {}
    assert read_image_config(plain | change, processor).digest != read_image_config(plain, processor).digest


def test_a_size_that_crop_pct_cannot_read_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="expected a shortest_edge"):
        read_image_config({"size": {"height": 224, "width": 224}}, "ConvNext")
