from __future__ import annotations

import hashlib
import json
import pickle
from importlib.util import find_spec
from pathlib import Path

import pytest
from transformers import CLIPModel, GemmaTokenizer

from models.checkpoint import BUNDLED_ID, bundled_model, open_checkpoint
from models.encoder import load_encoder
from models.errors import BrokenCheckpoint, MissingLibrary, ModelNotFound, UnsafeCheckpoint, UnsupportedModel
from models.pipeline import open_pipeline
from models.scenes.card import digests
from tests.models.families.builders import own_texts
from tests.models.tiny_checkpoints import (
    CORPUS,
    SIDE,
    build_sentencepiece_siglip,
    copy_of,
    save_siglip,
    unit,
)


def edit(path: Path, **changes: object) -> None:
    """Change keys of a JSON file; None removes one."""
    content = {**(json.loads(path.read_text()) if path.is_file() else {}), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.fixture
def copied(clip: Path, tmp_path: Path) -> Path:
    return copy_of(clip, tmp_path / "copied")


def test_pickled_weights_are_refused_without_opening_them(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    (copied / "pytorch_model.bin").write_bytes(pickle.dumps({"would": "run code"}))
    with pytest.raises(UnsafeCheckpoint, match=r"copied has only pickled weights \(pytorch_model.bin\).*convert it"):
        load_encoder(str(copied), device="cpu")


def test_a_folder_without_weights_says_so(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    with pytest.raises(UnsafeCheckpoint, match=r"copied has no model.safetensors"):
        open_checkpoint(str(copied))


@pytest.mark.parametrize(
    ("model_type", "hint"),
    [("blip", ""), ("clip_vision_model", "one of the two towers"), (None, "names no model_type")],
)
def test_other_model_types_are_refused_by_name(copied: Path, model_type: str | None, hint: str) -> None:
    edit(copied / "config.json", model_type=model_type)
    with pytest.raises(UnsupportedModel, match=rf"of type {model_type!r}; supported types are clip, .*resnet.*{hint}"):
        open_checkpoint(str(copied))


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "preprocessor_config.json"])
def test_code_of_the_checkpoint_is_never_run(copied: Path, file: str) -> None:
    edit(copied / file, auto_map={"AutoModel": "evil.Model"})
    (copied / "evil.py").write_text("raise SystemExit")
    with pytest.raises(UnsafeCheckpoint, match=rf"auto_map in {file}"):
        load_encoder(str(copied), device="cpu")


def test_an_adapter_is_refused(copied: Path) -> None:
    edit(copied / "adapter_config.json", base_model_name_or_path="somebody/else")
    with pytest.raises(UnsupportedModel, match="merge it"):
        open_checkpoint(str(copied))


@pytest.mark.parametrize("model", ["/no/such/folder", "../nowhere/at/all", "no folder", "a/b/c"])
def test_a_missing_folder_is_named(model: str) -> None:
    with pytest.raises(ModelNotFound, match=f"no folder '{model}'"):
        open_checkpoint(model)


def test_a_hub_model_without_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelNotFound, match=r"openai/clip-vit-base-patch32 is not in the local cache.*hf download"):
        load_encoder("openai/clip-vit-base-patch32", device="cpu")
    with pytest.raises(ModelNotFound, match="at revision 'v2' is not in the local cache"):
        load_encoder("openai/clip-vit-base-patch32", revision="v2", device="cpu")


def test_a_cached_hub_model_loads_offline_at_its_commit(
    clip: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--somebody--tiny-clip"
    (repository / "snapshots").mkdir(parents=True)
    copy_of(clip, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    passport = load_encoder("somebody/tiny-clip", device="cpu").passport
    assert (passport.model, passport.revision, passport.source) == ("somebody/tiny-clip", commit, "hub")
    assert passport.differences(load_encoder(str(clip), device="cpu").passport) == []


def test_a_folder_has_no_revision(clip: Path) -> None:
    with pytest.raises(ModelNotFound, match="is a folder and has no revision 'v2'"):
        open_checkpoint(str(clip), "v2")


def test_shards_are_read_and_digested(clip: Path, tmp_path: Path) -> None:
    folder = copy_of(clip, tmp_path / "shards")
    (folder / "model.safetensors").unlink()
    CLIPModel.from_pretrained(clip).save_pretrained(folder, max_shard_size="60KB")
    checkpoint = open_checkpoint(str(folder))
    assert len(checkpoint.weights) > 1
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in checkpoint.weights]
    assert checkpoint.weights_digest() == hashlib.sha256("".join(lines).encode()).hexdigest()
    load_encoder(str(folder), device="cpu")
    checkpoint.weights[0].unlink()
    with pytest.raises(BrokenCheckpoint, match=r"names \['model-00001-of-"):
        open_checkpoint(str(folder))


def test_an_index_may_not_point_elsewhere(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    edit(copied / "model.safetensors.index.json", weight_map={"a": "../other/pytorch_model.bin"})
    with pytest.raises(UnsafeCheckpoint, match="expected safetensors files beside it"):
        open_checkpoint(str(copied))


def test_one_file_has_the_digest_that_sha256sum_prints(clip: Path) -> None:
    expected = hashlib.sha256((clip / "model.safetensors").read_bytes()).hexdigest()
    assert open_checkpoint(str(clip)).weights_digest() == expected


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "tokenizer.json"])
def test_a_missing_or_broken_file_is_named(copied: Path, file: str) -> None:
    (copied / file).write_text("{")
    with pytest.raises(BrokenCheckpoint, match=r"copied"):
        load_encoder(str(copied), device="cpu")
    (copied / file).unlink()
    with pytest.raises(BrokenCheckpoint, match=r"copied"):
        load_encoder(str(copied), device="cpu")


def test_an_image_size_that_contradicts_the_tower_is_refused(copied: Path) -> None:
    edit(copied / "preprocessor_config.json", crop_size={"height": 30, "width": 30})
    with pytest.raises(BrokenCheckpoint, match=r"gives \(30, 30\), but its vision tower takes \(32, 32\)"):
        open_pipeline(str(copied))
    edit(copied / "preprocessor_config.json", do_center_crop=False)
    with pytest.raises(BrokenCheckpoint, match="images of varying size"):
        open_pipeline(str(copied))


def test_settings_nested_in_processor_config_go_first(copied: Path) -> None:
    nested = {"image_processor_type": "CLIPImageProcessor", "size": SIDE, "crop_size": SIDE, "resample": 2}
    edit(copied / "processor_config.json", image_processor=nested)
    assert open_pipeline(str(copied)).image.resample == 2


def test_a_tokenizer_without_the_end_token_that_is_pooled_is_refused(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    edit(copied / "config.json", text_config={**config["text_config"], "eos_token_id": 7})
    with pytest.raises(BrokenCheckpoint, match=r"pools texts at token 7, .* every text would get one vector"):
        open_pipeline(str(copied))


def test_siglip_without_a_pooling_head_is_refused(siglip: Path, tmp_path: Path) -> None:
    folder = copy_of(siglip, tmp_path / "headless")
    config = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", vision_config={**config["vision_config"], "vision_use_head": False})
    with pytest.raises(UnsupportedModel, match="no pooling head"):
        open_pipeline(str(folder))


def test_a_context_shorter_than_the_tower_is_kept(copied: Path) -> None:
    edit(copied / "tokenizer_config.json", model_max_length=9)
    text = open_pipeline(str(copied)).text
    assert text.context_length == 9
    assert len(text.prepare("the cat " * 9).ids) == 9


def test_fixed_resolution_siglip2_is_lower_cased_as_it_was_trained(tmp_path: Path) -> None:
    """Its checkpoints are of type siglip with Gemma's tokenizer, whose `do_lower_case` transformers ignores."""
    folder = tmp_path / "siglip2-tiny"
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *sorted({c for text in CORPUS for c in text}), "▁"]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    tokenizer = GemmaTokenizer(vocab=vocabulary, merges=[])
    save_siglip(folder, vocabulary=len(vocabulary))
    tokenizer.save_pretrained(folder)
    edit(folder / "tokenizer_config.json", do_lower_case=True, padding_side="right", model_input_names=["input_ids"])
    encoder = load_encoder(str(folder), device="cpu")
    shouted, quiet = encoder.prepare_text("a RED shoe"), encoder.prepare_text("a red shoe")
    assert shouted == quiet
    assert encoder.passport.text_padding == "16, right, id 0, not masked"


def test_siglip_reads_sentencepiece_or_says_what_to_install(siglip: Path, tmp_path: Path) -> None:
    """The tokenizer that google/siglip-* name. Both halves are the behaviour of one installation or another."""
    folder = tmp_path / "spm"
    if find_spec("sentencepiece") is None:
        copy_of(siglip, folder)
        edit(folder / "tokenizer_config.json", tokenizer_class="SiglipTokenizer")
        with pytest.raises(MissingLibrary, match="pip install sentencepiece protobuf"):
            open_pipeline(str(folder))
        return
    build_sentencepiece_siglip(folder)
    texts = ["a photo of a RED cube!", "", "the cat", "x " * 60]
    encoder = load_encoder(str(folder), device="cpu")
    ours = encoder.encode_texts([encoder.prepare_text(text) for text in texts])
    assert abs(ours - own_texts(folder, texts)).max() < 1e-4
    assert encoder.prepare_text("A RED cube!") == encoder.prepare_text("a red cube")


def test_weights_must_be_the_ones_of_the_card_beside_them(copied: Path) -> None:
    edit(copied / "card.json", files=digests(copied))
    load_encoder(str(copied), device="cpu")
    content = bytearray((copied / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (copied / "model.safetensors").write_bytes(content)
    with pytest.raises(
        UnsafeCheckpoint, match=r"copied is not what its model card describes.*model.safetensors has SHA"
    ):
        open_checkpoint(str(copied))


def test_a_card_without_digests_means_nothing(copied: Path) -> None:
    for files in (None, ["model.safetensors"], {"model.safetensors": "1.2 GB"}):
        edit(copied / "card.json", title="something else", files=files)
        open_checkpoint(str(copied))


def test_the_bundled_model_loads_by_each_of_its_names() -> None:
    encoder = load_encoder("bundled", device="cpu")
    passport = encoder.passport
    assert (passport.model, passport.revision, passport.source) == (BUNDLED_ID, None, "bundled")
    assert str(bundled_model()) not in json.dumps(passport.to_dict())
    for name in ("scenes", BUNDLED_ID):
        assert open_pipeline(name).passport("float32").differences(passport) == []
    red, same, other = unit(
        encoder.encode_texts([encoder.prepare_text(t) for t in ("a red circle", "A RED circle", "two blue squares")])
    )
    assert red @ same > 0.9999
    assert red @ other < 0.9
