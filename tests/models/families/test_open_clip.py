"""open_clip's format against a reference of its architecture that shares no code with ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from models.checkpoint import open_checkpoint
from models.encoder import Encoder, load_encoder
from models.errors import BrokenCheckpoint, UnsafeCheckpoint, UnsupportedModel
from models.pipeline import open_pipeline
from tests.models.families.builders import CHINESE
from tests.models.families.open_clip import Reference, build, own_images, own_texts
from tests.models.test_encoder import TEXTS, assert_same, images_of, texts_of
from tests.models.tiny_checkpoints import CONTEXT, copy_of, unit

WORDS = [*TEXTS, *CHINESE, "Caf\u00c3\u00a9 &amp;amp; \u201cbar\u201d", "don\u2019t  \uff21 &lt;b&gt;"]
LAYOUTS: dict[str, dict[str, Any]] = {
    "own": {}, "quick_gelu": {"quick_gelu": True}, "custom_text": {"custom_text": True}, "xlm-roberta": {"hub": True},
    "eos": {"eos": True},
}  # fmt: skip


@pytest.fixture(scope="module", params=LAYOUTS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Reference]:
    return build(tmp_path_factory.mktemp("open_clip") / request.param, **LAYOUTS[request.param])


@pytest.fixture(scope="module")
def encoder(made: tuple[Path, Reference]) -> Encoder:
    return load_encoder(str(made[0]), device="cpu")


def settings(folder: Path, part: str | None = None, **changes: object) -> None:
    """Change keys of model_cfg, or of a part of it; None removes one."""
    file = folder / "open_clip_config.json"
    content = json.loads(file.read_text())
    target = content["model_cfg"] if part is None else content["model_cfg"][part]
    for key, value in changes.items():
        target[key] = value
        if value is None:
            del target[key]
    file.write_text(json.dumps(content))


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return build(tmp_path / "copied")[0]


def test_vectors_equal_the_reference(
    made: tuple[Path, Reference], encoder: Encoder, pictures: list[np.ndarray]
) -> None:
    folder, model = made
    assert encoder.passport.kind == "open_clip"
    assert_same(images_of(encoder, pictures), own_images(model, pictures))
    assert_same(texts_of(encoder, WORDS), own_texts(folder, model, WORDS))


def test_a_vector_does_not_depend_on_its_batch(encoder: Encoder, pictures: list[np.ndarray]) -> None:
    alone = np.concatenate([texts_of(encoder, [text]) for text in WORDS])
    assert np.abs(texts_of(encoder, WORDS * 3)[-len(WORDS) :] - alone).max() < 1e-5
    alone = np.concatenate([images_of(encoder, [picture]) for picture in pictures])
    assert np.abs(images_of(encoder, pictures * 3)[-len(pictures) :] - alone).max() < 1e-5


@pytest.mark.parametrize("preprocess", [{"resize_mode": "squash"}, {"interpolation": "bilinear"}])
def test_the_preprocessing_of_the_file_is_heeded(
    preprocess: dict[str, Any], tmp_path: Path, pictures: list[np.ndarray]
) -> None:
    folder, model = build(tmp_path / "other", preprocess=preprocess)
    ours = images_of(load_encoder(str(folder), device="cpu"), pictures)
    assert_same(ours, own_images(model, pictures, preprocess))
    assert np.abs(ours - own_images(model, pictures)).max() > 1e-2


def test_an_odd_crop_starts_where_torchvision_starts_it(copied: Path) -> None:
    """35 pixels to 32: 1.5 is rounded to the even 2, while transformers cuts it to 1."""
    image = np.arange(35, dtype=np.uint8).reshape(35, 1, 1).repeat(32, axis=1).repeat(3, axis=2)
    assert open_pipeline(str(copied)).image.apply(image)[0, 0, 0] == 2


def test_the_flag_decides_the_activation_and_is_in_the_passport(tmp_path: Path, pictures: list[np.ndarray]) -> None:
    (plain, model), (quick, _) = build(tmp_path / "plain"), build(tmp_path / "quick", quick_gelu=True)
    assert open_checkpoint(str(plain)).weights_digest() == open_checkpoint(str(quick)).weights_digest()
    wrong = images_of(load_encoder(str(quick), device="cpu"), pictures)
    assert np.abs(wrong - own_images(model, pictures)).max() > 1e-2
    assert open_pipeline(str(quick)).passport("float32").differences(open_pipeline(str(plain)).passport("float32")) == [
        "towers"
    ]


def test_openai_weights_without_the_flag_are_refused(copied: Path, tmp_path: Path) -> None:
    folder = copied.rename(tmp_path / "vit_b_32_clip.openai")
    with pytest.raises(BrokenCheckpoint, match=r'does not say whether its activation is QuickGELU.*"quick_gelu": true'):
        open_pipeline(str(folder))
    for said in (True, False):
        settings(folder, quick_gelu=said)
        assert ("quick_gelu" in str(open_pipeline(str(folder)).passport("float32").towers)) == said


def test_context_and_cut_follow_the_configuration_not_the_tokenizer(encoder: Encoder, made: tuple[Path, Any]) -> None:
    tokenizer = json.loads((made[0] / "tokenizer_config.json").read_text())
    assert encoder.context_length == CONTEXT
    assert tokenizer["model_max_length"] == (512 if made[0].name == "xlm-roberta" else CONTEXT)
    prepared = encoder.prepare_text("the cat " * 40)
    assert len(prepared.ids) == CONTEXT
    assert prepared.truncated


def test_the_padding_and_pooling_are_in_the_passport(encoder: Encoder, made: tuple[Path, Any]) -> None:
    expected = {
        "xlm-roberta": ("longest in batch, right, id 1, masked", "mean of positions"),
        "eos": ("16, right, id 1, not masked", "first id 2"),
    }.get(made[0].name, ("longest in batch, right, id 0, not masked", "largest id"))
    assert (encoder.passport.text_padding, encoder.passport.pooling.rpartition("text: ")[2]) == expected


def test_the_cleaning_of_texts_is_in_the_tokenizer_digest(copied: Path) -> None:
    before = open_pipeline(str(copied)).passport("float32")
    settings(copied, "text_cfg", tokenizer_kwargs={"clean": "whitespace"}, hf_tokenizer_name="x")
    assert "tokenizer" not in before.differences(open_pipeline(str(copied)).passport("float32"))  # it lowers anyway
    settings(copied, "text_cfg", tokenizer_kwargs={"clean": "canonicalize"})
    with pytest.raises(UnsupportedModel, match="only clean, as whitespace or lower, is served"):
        open_pipeline(str(copied))


@pytest.mark.parametrize("pooler", ["max_pooler", "cls_last_hidden_state_pooler"])
def test_other_poolers_are_heeded(pooler: str, tmp_path: Path) -> None:
    folder, model = build(tmp_path / "pooled", hub=True)
    settings(folder, "text_cfg", hf_pooler_type=pooler)
    encoder = load_encoder(str(folder), device="cpu")
    with_mean = own_texts(folder, model, WORDS)
    texts = texts_of(encoder, WORDS)
    assert np.abs(texts - with_mean).max() > 1e-2
    alone = np.concatenate([texts_of(encoder, [text]) for text in WORDS])
    assert np.abs(texts - alone).max() < 1e-5
    assert encoder.passport.pooling.endswith({"max_pooler": "maximum of positions"}.get(pooler, "first position"))


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        (
            "vision_cfg",
            {"timm_model_name": "vit_base_patch16_siglip_224"},
            "of timm, which is not served.*google/siglip",
        ),
        ("vision_cfg", {"layers": [3, 4, 6, 3]}, "CLIP's ResNet"),
        ("vision_cfg", {"attentional_pool": True}, "attentional_pool True in vision_cfg"),
        ("vision_cfg", {"pool_type": "avg"}, "pool_type 'avg' in vision_cfg"),
        ("vision_cfg", {"image_size": [32, 16]}, "only squares"),
        ("text_cfg", {"no_causal_mask": True}, "no_causal_mask True in text_cfg"),
        ("text_cfg", {"pool_type": "last"}, "pools texts by 'last'"),
        ("text_cfg", {"norm_kwargs": {"elementwise_affine": False}}, "only eps"),
        (None, {"multimodal_cfg": {"layers": 2}}, "multimodal_cfg .* in model_cfg"),
    ],
)
def test_what_would_change_a_vector_unnoticed_is_refused_by_name(
    copied: Path, part: str | None, change: dict[str, object], message: str
) -> None:
    settings(copied, part, **change)
    with pytest.raises(UnsupportedModel, match=message):
        open_pipeline(str(copied))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda w: w.pop("visual.proj"), "lacks 1 weights .*visual_projection.weight"),
        (lambda w: w.pop("text_projection"), "lacks 1 weights .*text_projection.weight"),
        (lambda w: w.update({"visual.attn_pool.query": w["visual.proj"].clone()}), "such as visual.attn_pool.query"),
        (lambda w: w.update({"cls_emb": w["visual.proj"].clone()}), "such as text.cls_emb"),
        (lambda w: w.update({"visual.proj": w["visual.proj"][:, :5].clone()}), "cannot be loaded"),
    ],
)
def test_weights_that_do_not_fit_the_configuration_are_refused(copied: Path, edit: Any, message: str) -> None:
    weights = load_file(copied / "open_clip_model.safetensors")
    edit(weights)
    save_file(weights, copied / "open_clip_model.safetensors")
    with pytest.raises(BrokenCheckpoint, match=message):
        load_encoder(str(copied), device="cpu")


@pytest.mark.parametrize("hub", [False, True])
def test_number_formats_of_weights_and_forward_are_apart(hub: bool, tmp_path: Path, pictures: list[np.ndarray]) -> None:
    """Checkpoints are often saved in half precision; the forward is in the format that was asked for."""
    folder, model = build(tmp_path / "half", hub=hub)
    weights = load_file(folder / "open_clip_model.safetensors")
    save_file({key: value.half() for key, value in weights.items()}, folder / "open_clip_model.safetensors")
    for dtype, closeness in (("float32", 0.99999), ("bfloat16", 0.999)):
        encoder = load_encoder(str(folder), device="cpu", dtype=dtype)
        assert {str(weight.dtype) for weight in encoder._network.module.parameters()} == {f"torch.{dtype}"}
        for ours, exact in (
            (images_of(encoder, pictures), own_images(model, pictures)),
            (texts_of(encoder, WORDS), own_texts(folder, model, WORDS)),
        ):
            assert (unit(ours) * unit(exact)).sum(axis=1).min() > closeness


def test_keys_of_a_tower_that_is_not_there_mean_nothing(copied: Path) -> None:
    before = open_pipeline(str(copied)).passport("float32")
    settings(copied, "vision_cfg", timm_pool="avg", timm_model_name="", patch_dropout=0.5, attn_pooler_heads=8)
    assert open_pipeline(str(copied)).passport("float32").differences(before) == []


def test_pickled_weights_are_refused(copied: Path) -> None:
    (copied / "open_clip_model.safetensors").rename(copied / "open_clip_pytorch_model.bin")
    with pytest.raises(UnsafeCheckpoint, match="only pickled weights"):
        open_checkpoint(str(copied))


def test_a_text_tower_whose_configuration_is_missing_says_where_to_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder, _ = build(tmp_path / "alone", hub=True)
    (folder / "xlm-roberta-tiny").rename(tmp_path / "elsewhere")
    with pytest.raises(BrokenCheckpoint, match=r"hf download xlm-roberta-tiny config.json.*into xlm-roberta-tiny/"):
        open_pipeline(str(folder))


def test_a_folder_in_both_formats_is_taken_as_transformers_saved_it(copied: Path, clip: Path, tmp_path: Path) -> None:
    both = copy_of(clip, tmp_path / "both")
    (both / "open_clip_config.json").write_text((copied / "open_clip_config.json").read_text())
    assert open_checkpoint(str(both)).kind == "clip"
    config = json.loads((copied / "open_clip_config.json").read_text())
    (copied / "config.json").write_text(json.dumps({"architecture": "vit_base_patch32_clip_224"}))  # as timm leaves one
    assert open_checkpoint(str(copied)).kind == "open_clip"
    assert config["model_cfg"]["embed_dim"] == open_pipeline(str(copied)).dim
