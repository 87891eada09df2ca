from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from models.checkpoint import open_checkpoint
from models.convert import PASSPORT, convert
from models.encoder import load_encoder
from models.errors import BrokenCheckpoint, CannotWrite, ModelError, ModelNotFound, UnsafeCheckpoint, UnsupportedModel
from models.passport import Passport
from tests.models.families.open_clip import build, own_images, own_texts
from tests.models.test_checkpoint import edit
from tests.models.tiny_checkpoints import copy_of

Pickled = Callable[..., Path]


@pytest.fixture(scope="module")
def state(clip: Path) -> dict[str, torch.Tensor]:
    return dict(CLIPModel.from_pretrained(clip).state_dict())


@pytest.fixture
def pickled(clip: Path, tmp_path: Path, state: dict[str, torch.Tensor]) -> Pickled:
    """Makes a checkpoint whose weights are a pickle of `content`."""

    def make(content: Any = None, file: str = "pytorch_model.bin", **options: Any) -> Path:
        folder = copy_of(clip, tmp_path / "old")
        (folder / "model.safetensors").unlink()
        (folder / "README.md").write_text("# a model")
        torch.save(state if content is None else content, folder / file, **options)
        return folder

    return make


def own_vectors(folder: Path, state: dict[str, torch.Tensor], pictures: list[np.ndarray]) -> np.ndarray:
    """Image vectors of a state dict in transformers' own model: no file of weights, nothing of ours."""
    model = CLIPModel(CLIPConfig.from_pretrained(folder)).eval()
    model.load_state_dict({name: value.float() for name, value in state.items()}, strict=False)
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    with torch.inference_mode():
        pixels = processor(pictures, return_tensors="pt", input_data_format="channels_last")["pixel_values"]
        return model.get_image_features(pixel_values=pixels).pooler_output.numpy()


def vectors(folder: Path, pictures: list[np.ndarray]) -> np.ndarray:
    encoder = load_encoder(str(folder), device="cpu")
    return encoder.encode_images([encoder.prepare_image(picture) for picture in pictures])


def assert_nothing_left(above: Path, *expected: str) -> None:
    assert sorted(path.name for path in above.iterdir()) == sorted(expected)


def test_a_pickle_becomes_a_model_of_the_same_vectors(
    pickled: Pickled, state: dict[str, torch.Tensor], tmp_path: Path, pictures: list[np.ndarray]
) -> None:
    old, new = pickled(), tmp_path / "made" / "new"
    told: list[tuple[str, float]] = []
    done = convert(str(old), new, on_progress=lambda what, share: told.append((what, share)))
    assert np.abs(vectors(new, pictures) - own_vectors(old, state, pictures)).max() < 1e-4
    assert (done.folder, done.tensors, done.skipped, done.unchanged) == (new, {"float32": len(state)}, (), False)
    assert ("writing model.safetensors", 1.0) in told
    assert told[-1] == ("trying out the model", 1.0)
    assert sorted(path.name for path in new.iterdir()) == [
        "config.json", "model.safetensors", "passport.json", "preprocessor_config.json", "tokenizer.json",
        "tokenizer_config.json",
    ]  # fmt: skip
    assert (new / "model.safetensors").stat().st_mode == (new / "config.json").stat().st_mode
    assert_nothing_left(new.parent, "new")


def test_the_passport_is_that_of_the_loaded_model_and_says_what_it_was_made_from(
    pickled: Pickled, tmp_path: Path
) -> None:
    convert(str(pickled()), tmp_path / "new")
    content = json.loads((tmp_path / "new" / PASSPORT).read_text())
    assert Passport.from_dict(content) == load_encoder(str(tmp_path / "new"), device="cpu").passport
    assert content["converted_from"]["model"] == "old"
    assert len(content["converted_from"]["files"]["pytorch_model.bin"]) == 64


def test_a_training_checkpoint_gives_its_weights(
    pickled: Pickled, state: dict[str, torch.Tensor], tmp_path: Path, pictures: list[np.ndarray]
) -> None:
    content = {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3, "optimizer": {"state": {}}}
    old = pickled(content, "epoch_3.pt")
    done = convert(str(old / "epoch_3.pt"), tmp_path / "new")
    assert done.skipped == ("epoch", "optimizer")
    assert np.abs(vectors(tmp_path / "new", pictures) - own_vectors(old, state, pictures)).max() < 1e-4


def test_a_legacy_file_is_read(pickled: Pickled, clip: Path, tmp_path: Path, pictures: list[np.ndarray]) -> None:
    convert(str(pickled(_use_new_zipfile_serialization=False)), tmp_path / "new")
    assert np.abs(vectors(tmp_path / "new", pictures) - vectors(clip, pictures)).max() < 1e-6


def test_number_formats_are_kept(pickled: Pickled, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    half = {name: value.bfloat16() if value.dim() > 1 else value for name, value in state.items()}
    done = convert(str(pickled(half)), tmp_path / "new")
    assert done.tensors == {
        "bfloat16": sum(value.dim() > 1 for value in state.values()),
        "float32": sum(value.dim() <= 1 for value in state.values()),
    }
    for name, value in load_file(tmp_path / "new" / "model.safetensors").items():
        assert value.dtype == half[name].dtype
        assert torch.equal(value, half[name])


def test_shared_and_strided_tensors_are_written_whole(
    pickled: Pickled, state: dict[str, torch.Tensor], tmp_path: Path, pictures: list[np.ndarray]
) -> None:
    layer = "vision_model.encoder.layers.0."
    fused = torch.stack([state[f"{layer}self_attn.{part}.weight"] for part in ("q_proj", "k_proj")])
    shared = {
        **state,
        f"{layer}self_attn.q_proj.weight": fused[0],
        f"{layer}self_attn.k_proj.weight": fused[1],
        f"{layer}layer_norm2.weight": state[f"{layer}layer_norm1.weight"],  # tied
        "visual_projection.weight": state["visual_projection.weight"].t().contiguous().t(),  # strided
    }
    old = pickled(shared)
    convert(str(old), tmp_path / "new")
    assert np.abs(vectors(tmp_path / "new", pictures) - own_vectors(old, shared, pictures)).max() < 1e-4


def test_shards_stay_shards(
    pickled: Pickled, state: dict[str, torch.Tensor], tmp_path: Path, pictures: list[np.ndarray], clip: Path
) -> None:
    old = pickled()
    (old / "pytorch_model.bin").unlink()
    names = sorted(state)
    place = {}
    for number, part in enumerate((names[:30], names[30:]), 1):
        file = f"pytorch_model-{number:05d}-of-00002.bin"
        torch.save({name: state[name] for name in part}, old / file)
        place |= dict.fromkeys(part, file)
    (old / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": place}))
    convert(str(old), tmp_path / "new")
    assert len(open_checkpoint(str(tmp_path / "new")).weights) == 2
    assert np.abs(vectors(tmp_path / "new", pictures) - vectors(clip, pictures)).max() < 1e-6
    (old / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(
        BrokenCheckpoint, match=r"names \['pytorch_model-00002-of-00002.bin'\] files that are not there"
    ):
        convert(str(old), tmp_path / "other")


def test_nothing_in_a_pickle_is_run_and_nothing_is_left(
    pickled: Pickled, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    mark = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {mark}",)

    old = pickled({**state, "x": Evil()})
    with pytest.raises(UnsafeCheckpoint, match=r"pytorch_model.bin asks for posix.system"):
        convert(str(old), tmp_path / "new")
    assert_nothing_left(tmp_path, "old")


def test_converting_again_changes_nothing_and_other_content_is_never_overwritten(
    pickled: Pickled, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    old, new = pickled(), tmp_path / "new"
    new.mkdir()  # an empty folder is as good as none
    assert not convert(str(old), new).unchanged
    before = (new / "model.safetensors").stat().st_mtime_ns
    assert convert(str(old), new).unchanged
    assert (new / "model.safetensors").stat().st_mtime_ns == before
    torch.save({**state, "visual_projection.weight": state["visual_projection.weight"] + 1}, old / "pytorch_model.bin")
    with pytest.raises(CannotWrite, match=r"new is there and holds another model \(its model.safetensors differs\)"):
        convert(str(old), new)
    assert (new / "model.safetensors").stat().st_mtime_ns == before
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"mine")
    for taken in ("photos", "photos/a.jpg"):
        with pytest.raises(CannotWrite, match="is there and holds something else; choose a folder that does not exist"):
            convert(str(old), tmp_path / taken)
    assert_nothing_left(tmp_path, "old", "new", "photos")


@pytest.mark.parametrize("stop", ["opening pytorch_model.bin", "writing model.safetensors", "trying out the model"])
def test_an_interrupted_conversion_leaves_nothing(stop: str, pickled: Pickled, tmp_path: Path) -> None:
    def interrupt(what: str, share: float) -> None:
        if what == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(str(pickled()), tmp_path / "new", on_progress=interrupt)
    assert_nothing_left(tmp_path, "old")


def test_a_folder_that_cannot_be_made_is_named(pickled: Pickled, tmp_path: Path) -> None:
    old = pickled()
    (tmp_path / "file").write_text("x")
    with pytest.raises(CannotWrite, match=r"file/new cannot be written: .*Not a directory|File exists"):
        convert(str(old), tmp_path / "file" / "new")


def test_weights_that_do_not_fit_the_configuration_make_no_model(
    pickled: Pickled, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    old = pickled({name: value for name, value in state.items() if "visual_projection" not in name})
    with pytest.raises(BrokenCheckpoint, match=r"lacks 1 weights .* such as visual_projection.weight"):
        convert(str(old), tmp_path / "new")
    assert_nothing_left(tmp_path, "old")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"auto_map": {"AutoModel": "evil.Model"}}, UnsafeCheckpoint, r"asks for Python code of its own"),
        ({"model_type": "llama"}, UnsupportedModel, r"is of type 'llama'; supported types are clip"),
    ],
)
def test_what_could_not_be_served_is_refused_before_its_weights_are_opened(
    change: dict[str, Any], error: type[ModelError], message: str, pickled: Pickled, tmp_path: Path
) -> None:
    old = pickled()
    edit(old / "config.json", **change)
    (old / "pytorch_model.bin").write_bytes(b"not even a pickle")
    with pytest.raises(error, match=message):
        convert(str(old), tmp_path / "new")


def test_a_file_without_its_configuration_says_what_to_put_there(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save(state, tmp_path / "bare.pt")
    with pytest.raises(
        BrokenCheckpoint, match=r"has no config.json and no open_clip_config.json for bare.pt; put that"
    ):
        convert(str(tmp_path / "bare.pt"), tmp_path / "new")


def test_other_checkpoints_say_what_to_do(pickled: Pickled, clip: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"tiny-clip has safetensors .*use it as it is, --model "):
        convert(str(clip), tmp_path / "new")
    old = pickled(file="last.pt")
    with pytest.raises(ModelNotFound, match="is not on the hub and has no revision 'v2'"):
        convert(str(old), tmp_path / "new", "v2")
    torch.save({}, old / "best.pt")
    with pytest.raises(BrokenCheckpoint, match=r"old has several files of weights; name one of them: best.pt, last.pt"):
        convert(str(old), tmp_path / "new")
    for file in old.glob("*.pt"):
        file.unlink()
    with pytest.raises(BrokenCheckpoint, match="old has no pickled weights"):
        convert(str(old), tmp_path / "new")
    with pytest.raises(ModelNotFound, match="there is no folder"):
        convert(str(tmp_path / "nowhere"), tmp_path / "new")


def test_a_cached_hub_checkpoint_is_converted_at_its_commit(
    pickled: Pickled, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--somebody--tiny"
    (repository / "snapshots").mkdir(parents=True)
    copy_of(pickled(), repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UnsafeCheckpoint, match=r"sightline convert somebody/tiny FOLDER"):
        load_encoder("somebody/tiny", device="cpu")
    convert("somebody/tiny", tmp_path / "new")
    origin = json.loads((tmp_path / "new" / PASSPORT).read_text())["converted_from"]
    assert (origin["model"], origin["revision"]) == ("somebody/tiny", commit)


@pytest.mark.parametrize("layout", [{}, {"hub": True}])
def test_open_clip_checkpoints_keep_their_format(
    layout: dict[str, bool], tmp_path: Path, pictures: list[np.ndarray]
) -> None:
    old, reference = build(tmp_path / "old", **layout)
    training = {f"module.{name}": value for name, value in load_file(old / "open_clip_model.safetensors").items()}
    torch.save({"epoch": 9, "name": "run", "state_dict": training}, old / "open_clip_pytorch_model.bin")
    (old / "open_clip_model.safetensors").unlink()
    edit(old / "config.json", model_type="clip")  # as some repositories hold both formats
    done = convert(str(old / "open_clip_pytorch_model.bin"), tmp_path / "new")
    assert done.passport.kind == "open_clip"
    assert np.abs(vectors(tmp_path / "new", pictures) - own_images(reference, pictures)).max() < 1e-4
    encoder = load_encoder(str(tmp_path / "new"), device="cpu")
    texts = ["a photo of a red cube", "the cat"]
    found = encoder.encode_texts([encoder.prepare_text(text) for text in texts])
    assert np.abs(found - own_texts(tmp_path / "new", reference, texts)).max() < 1e-4


def test_a_refused_pickle_points_to_the_command(pickled: Pickled) -> None:
    old = pickled()
    with pytest.raises(
        UnsafeCheckpoint, match=rf"run code when opened; convert it once \(sightline convert {old} FOLDER"
    ):
        open_checkpoint(str(old))
