from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from models.encoder import Encoder, load_encoder
from models.errors import BrokenCheckpoint, DeviceUnavailable, InvalidInput, NonFiniteVectors
from models.passport import Passport
from models.pipeline import Pipeline
from tests.models.families.builders import own_images, own_texts
from tests.models.tiny_checkpoints import (
    CONTEXT,
    DIM,
    SIDE,
    build_clip,
    build_siglip,
    copy_of,
    unit,
)

TEXTS = [
    "a photo of a red cube",
    "",
    "TWO small green spheres!",
    "x",
    "naïve 東京 \U0001f431 don't",
    "the cat " * 40,
    "  a   large\tblue\ncone ",
]


def images_of(encoder: Encoder, pictures: list[np.ndarray]) -> np.ndarray:
    return encoder.encode_images([encoder.prepare_image(picture) for picture in pictures])


def texts_of(encoder: Encoder, texts: list[str]) -> np.ndarray:
    return encoder.encode_texts([encoder.prepare_text(text) for text in texts])


def assert_same(ours: np.ndarray, theirs: np.ndarray, tolerance: float = 1e-4) -> None:
    """Raw and normalised, and the vectors differ between inputs, or the comparison would prove nothing."""
    assert ours.dtype == np.float32
    assert np.abs(ours - theirs).max() < tolerance
    assert np.abs(unit(ours) - unit(theirs)).max() < tolerance
    assert np.abs(unit(ours)[0] - unit(ours)[2:]).max(axis=1).min() > 100 * tolerance


@pytest.fixture(scope="module")
def clip_encoder(clip: Path) -> Encoder:
    return load_encoder(str(clip), device="cpu")


@pytest.fixture(scope="module")
def siglip_encoder(siglip: Path) -> Encoder:
    return load_encoder(str(siglip), device="cpu")


def test_clip_vectors_equal_those_of_transformers(
    clip: Path, clip_encoder: Encoder, pictures: list[np.ndarray]
) -> None:
    assert_same(images_of(clip_encoder, pictures), own_images(clip, pictures))
    assert_same(texts_of(clip_encoder, TEXTS), own_texts(clip, TEXTS))


def test_siglip_vectors_equal_those_of_transformers(
    siglip: Path, siglip_encoder: Encoder, pictures: list[np.ndarray]
) -> None:
    assert_same(images_of(siglip_encoder, pictures), own_images(siglip, pictures))
    assert_same(texts_of(siglip_encoder, TEXTS), own_texts(siglip, TEXTS))


@pytest.mark.parametrize("options", [{"masked": True}, {"padding_side": "left"}, {"resample": 2}])
def test_siglip_follows_what_the_tokenizer_and_processor_say(
    options: dict, tmp_path: Path, siglip_encoder: Encoder, pictures: list[np.ndarray]
) -> None:
    folder = build_siglip(tmp_path / "other", **options)
    encoder = load_encoder(str(folder), device="cpu")
    assert_same(images_of(encoder, pictures), own_images(folder, pictures))
    assert_same(texts_of(encoder, TEXTS), own_texts(folder, TEXTS))
    expected = ["preprocessing"] if "resample" in options else ["text_padding"]
    assert encoder.passport.differences(siglip_encoder.passport) == expected


def test_siglip_pads_to_the_context_and_clip_to_the_longest(
    clip_encoder: Encoder, siglip_encoder: Encoder, siglip: Path
) -> None:
    short = AutoTokenizer.from_pretrained(siglip)(["x"], return_tensors="pt")
    with torch.inference_mode():
        unpadded = siglip_encoder._network.texts(**short).numpy()
    assert np.abs(texts_of(siglip_encoder, ["x"]) - unpadded).max() > 0.01  # padding decides, and we pad
    assert siglip_encoder.passport.text_padding.startswith(f"{CONTEXT}, right")
    assert clip_encoder.passport.text_padding.startswith("longest in batch, right")


def test_the_activation_of_the_config_is_used(tmp_path: Path, clip: Path, pictures: list[np.ndarray]) -> None:
    exact = build_clip(tmp_path / "gelu", hidden_act="gelu")
    theirs = own_images(exact, pictures)
    ours = images_of(load_encoder(str(exact), device="cpu"), pictures)
    assert_same(ours, theirs)
    assert np.abs(ours - own_images(clip, pictures)).max() > 1e-3  # the same weights with quick_gelu


def test_a_legacy_end_token_pools_at_the_largest_id(tmp_path: Path) -> None:
    folder = build_clip(tmp_path / "legacy", legacy_end=True)
    encoder = load_encoder(str(folder), device="cpu")
    assert_same(texts_of(encoder, TEXTS), own_texts(folder, TEXTS))
    assert encoder.passport.pooling == "image: class token; text: largest id"


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_vector_does_not_depend_on_its_batch(
    kind: str, request: pytest.FixtureRequest, pictures: list[np.ndarray]
) -> None:
    encoder: Encoder = request.getfixturevalue(f"{kind}_encoder")
    alone = np.concatenate([texts_of(encoder, [text]) for text in TEXTS])
    assert np.abs(texts_of(encoder, TEXTS) - alone).max() < 1e-5
    assert np.abs(texts_of(encoder, TEXTS[::-1] * 5)[-len(TEXTS) :][::-1] - alone).max() < 1e-5
    alone = np.concatenate([images_of(encoder, [picture]) for picture in pictures])
    assert np.abs(images_of(encoder, pictures) - alone).max() < 1e-5
    assert np.abs(images_of(encoder, pictures * 4)[-len(pictures) :] - alone).max() < 1e-5


def test_vectors_are_not_normalised(clip_encoder: Encoder, pictures: list[np.ndarray]) -> None:
    norms = np.linalg.norm(images_of(clip_encoder, pictures), axis=1)
    assert norms.std() > 1e-3
    assert clip_encoder.passport.normalisation == "none"


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_long_texts_are_cut_as_transformers_does_and_reported(kind: str, request: pytest.FixtureRequest) -> None:
    encoder: Encoder = request.getfixturevalue(f"{kind}_encoder")
    tokenizer = AutoTokenizer.from_pretrained(request.getfixturevalue(kind))
    for text in [*TEXTS, "the cat " * 5000]:
        whole = tokenizer(text, verbose=False)["input_ids"]
        prepared = encoder.prepare_text(text)
        assert prepared.ids == tokenizer(text, truncation=True, max_length=CONTEXT)["input_ids"]
        assert prepared.tokens == len(whole)
        assert prepared.truncated == (len(whole) > CONTEXT)
    assert encoder.prepare_text("the cat " * 40).truncated
    assert not encoder.prepare_text("").truncated


def test_extreme_images_get_vectors(clip_encoder: Encoder, siglip_encoder: Encoder) -> None:
    grey = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    strip = np.full((1, 20_000, 3), 7, np.uint8)
    for encoder in (clip_encoder, siglip_encoder):
        found = images_of(encoder, [grey, strip, strip.transpose(1, 0, 2), np.zeros((1, 1, 3), np.uint8)])
        assert found.shape == (4, encoder.dim)
        assert np.isfinite(found).all()


def test_nothing_gives_no_vectors(clip_encoder: Encoder) -> None:
    assert clip_encoder.encode_images([]).shape == (0, DIM)
    assert clip_encoder.encode_texts([]).shape == (0, DIM)


def test_many_threads_may_prepare(clip_encoder: Encoder, siglip_encoder: Encoder) -> None:
    texts = [f"{text} {number}" for number in range(60) for text in TEXTS]
    for encoder in (clip_encoder, siglip_encoder):
        expected = [encoder.prepare_text(text) for text in texts]
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(encoder.prepare_text, texts)) == expected


def test_a_bad_input_is_named(clip_encoder: Encoder) -> None:
    good = np.zeros((SIDE, SIDE, 3), np.uint8)
    with pytest.raises(InvalidInput, match=r"image 1 of the batch is uint8 \(8, 8, 3\), expected uint8 \(32, 32, 3\)"):
        clip_encoder.encode_images([good, np.zeros((8, 8, 3), np.uint8)])
    with pytest.raises(InvalidInput, match="image 0 of the batch is float32"):
        clip_encoder.encode_images([good.astype(np.float32)])
    with pytest.raises(InvalidInput, match="lone surrogate at character 4"):
        clip_encoder.prepare_text("bad \ud800")


def test_vectors_that_are_not_finite_are_named(clip: Path, tmp_path: Path) -> None:
    folder = copy_of(clip, tmp_path / "nan")
    weights = load_file(folder / "model.safetensors")
    token = load_encoder(str(clip), device="cpu").prepare_text("cube").ids[-2]
    weights["text_model.embeddings.token_embedding.weight"][token] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    encoder = load_encoder(str(folder), device="cpu")
    with pytest.raises(NonFiniteVectors, match="text vectors at index 1, 3 of the batch hold NaN") as caught:
        texts_of(encoder, ["cat", "cube", "cat", "red cube"])
    assert caught.value.indices == (1, 3)


def test_bfloat16_gives_the_same_space(clip: Path, clip_encoder: Encoder, pictures: list[np.ndarray]) -> None:
    half = load_encoder(str(clip), device="cpu", dtype="bfloat16")
    assert half.passport.dtype == "bfloat16"
    assert half.passport.differences(clip_encoder.passport) == []
    for ours, exact in (
        (images_of(half, pictures), images_of(clip_encoder, pictures)),
        (texts_of(half, TEXTS), texts_of(clip_encoder, TEXTS)),
    ):
        assert ours.dtype == np.float32
        assert (unit(ours) * unit(exact)).sum(axis=1).min() > 0.999


def test_a_device_or_format_that_is_not_there_is_refused(clip: Path) -> None:
    with pytest.raises(DeviceUnavailable, match="'cuda:99' was asked for"):
        load_encoder(str(clip), device="cuda:99")
    with pytest.raises(DeviceUnavailable, match="'gpu' is not a device"):
        load_encoder(str(clip), device="gpu")
    with pytest.raises(DeviceUnavailable, match="'int8' is not supported"):
        load_encoder(str(clip), device="cpu", dtype="int8")


def test_missing_weights_are_not_filled_with_random_numbers(clip: Path, tmp_path: Path) -> None:
    folder = copy_of(clip, tmp_path / "holes")
    weights = load_file(folder / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BrokenCheckpoint, match=r"lacks 1 weights .* such as text_projection.weight"):
        load_encoder(str(folder), device="cpu")


def test_cut_off_weights_are_refused(clip: Path, tmp_path: Path) -> None:
    folder = copy_of(clip, tmp_path / "cut")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(BrokenCheckpoint, match="the weights of cut cannot be loaded"):
        load_encoder(str(folder), device="cpu")


def test_a_loaded_model_does_not_change_with_its_files(clip: Path, tmp_path: Path) -> None:
    """Weights of safetensors are a map of the file: written over in place, they once changed under a running worker."""
    folder = copy_of(clip, tmp_path / "changing")
    encoder = load_encoder(str(folder), device="cpu")
    before = texts_of(encoder, TEXTS)
    other = (build_clip(tmp_path / "other", seed=7) / "model.safetensors").read_bytes()
    with (folder / "model.safetensors").open("r+b") as file:
        file.write(other)
    assert np.array_equal(texts_of(encoder, TEXTS), before)
    (folder / "model.safetensors").write_bytes(b"")  # an access to the map would end the process here
    assert np.array_equal(texts_of(encoder, TEXTS), before)


def test_a_model_that_changes_while_it_is_loaded_is_refused(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_of(clip, tmp_path / "changing")
    other = (build_clip(tmp_path / "other", seed=7) / "model.safetensors").read_bytes()
    digest = Pipeline.passport

    def overtaken(pipeline: Pipeline, dtype: str) -> Passport:
        (folder / "model.safetensors").write_bytes(other)  # between reading the weights and their digest
        return digest(pipeline, dtype)

    monkeypatch.setattr(Pipeline, "passport", overtaken)
    with pytest.raises(BrokenCheckpoint, match="the files of changing changed while they were loaded"):
        load_encoder(str(folder), device="cpu")
