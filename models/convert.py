"""A checkpoint of pickles becomes a folder of safetensors with a passport, once, and is never unpickled again."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from models.checkpoint import OPEN_CLIP_WEIGHTS, PICKLES, WEIGHTS, check_folder, fetch
from models.encoder import load_encoder
from models.errors import BrokenCheckpoint, CannotWrite, ModelNotFound, UnsupportedModel
from models.files import OPEN_CLIP_CONFIG, first_line, read_json
from models.passport import Passport
from models.pickles import read_weights

PASSPORT = "passport.json"
Progress = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done."""

_INDEX = "pytorch_model.bin.index.json"
_SAFE = ("*.safetensors", "*.safetensors.index.json")
_KEPT = (
    "config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt", "*.model",
)  # fmt: skip
_OF_TRAINING = {"training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.bin", "scheduler.pt", "scaler.pt"}


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a conversion made.

    Args:
        folder: where it lies; a model to give to `sightline space create --model`.
        passport: of the space that the model spans.
        tensors: how many, with their number formats.
        bytes: size of the weights.
        skipped: names of entries of the pickles that are no weights.
        unchanged: whether the folder held the same conversion before.
    """

    folder: Path
    passport: Passport
    tensors: dict[str, int]
    bytes: int
    skipped: tuple[str, ...]
    unchanged: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "folder": str(self.folder), "passport": self.passport.to_dict(), "tensors": self.tensors,
            "bytes": self.bytes, "skipped": list(self.skipped), "unchanged": self.unchanged,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Source:
    """The files of a checkpoint of pickles."""

    name: str
    revision: str | None
    folder: Path
    pickles: tuple[Path, ...]


def convert(checkpoint: str, out: Path, revision: str | None = None, on_progress: Progress | None = None) -> Conversion:
    """Write the weights, configuration, tokenizer and passport of a checkpoint of pickles into a folder.

    The folder appears whole or not at all, and a model that cannot be loaded and tried out never does.

    Args:
        checkpoint: a folder, a file of weights with its configuration beside it, or a hub id.
        out: the folder; if it is there, it must be empty or hold this very conversion.
        revision: branch, tag or commit of a hub repository.

    Raises:
        ModelError: one of the tree in `models.errors`, with what to do about it.
    """
    out = out.expanduser().resolve()
    taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
    if taken and not (out / PASSPORT).is_file():
        raise CannotWrite(f"{out} is there and holds something else; choose a folder that does not exist")
    tell = on_progress or (lambda _, __: None)
    source = _find(checkpoint, revision)
    with _workplace(out) as folder:
        tensors, skipped = _write_weights(source, folder, tell)
        _copy_rest(source, folder)
        tell("trying out the model", 0.0)
        passport = replace(load_encoder(str(folder), device="cpu").passport, source=str(out))
        _write_passport(source, folder, passport)
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        done = Conversion(out, passport, dict(tensors), size, tuple(skipped), taken)
        if taken:
            _check_same(out, folder)
        else:
            folder.rename(out)
        tell("trying out the model", 1.0)
    return done


def _find(checkpoint: str, revision: str | None) -> _Source:
    """The pickles of a checkpoint, whose configuration was found to be of a kind that is served."""
    path, commit = Path(checkpoint).expanduser(), None
    pickles: tuple[Path, ...] = ()
    if path.is_file():
        folder, name, pickles = path.parent.resolve(), path.name, (path.resolve(),)
    else:
        if path.is_dir():
            folder, name = path.resolve(), path.resolve().name
        else:
            name = checkpoint
            folder, commit = fetch(checkpoint, revision, ["*.json", "*.txt", "*.model"])
        found = sorted(file.name for pattern in _SAFE for file in folder.glob(pattern))
        if found:
            raise UnsupportedModel(
                f"{name} has safetensors already ({found[0]}): use it as it is, --model {checkpoint}"
            )
    if revision is not None and path.exists():
        raise ModelNotFound(f"{checkpoint} is not on the hub and has no revision {revision!r}; leave the revision out")
    if not (folder / "config.json").is_file() and not (folder / OPEN_CLIP_CONFIG).is_file():
        raise BrokenCheckpoint(
            f"{folder} has no config.json and no {OPEN_CLIP_CONFIG} for {name}; put that of its architecture there, "
            f"with the files of its tokenizer and image processor"
        )
    check_folder(folder, name)
    if not path.exists():
        folder, _ = fetch(checkpoint, commit, ["pytorch_model*.bin", "open_clip_pytorch_model.bin"])
    return _Source(name, commit, folder, pickles or _pickles(folder, name, checkpoint))


def _pickles(folder: Path, name: str, given: str) -> tuple[Path, ...]:
    if (folder / _INDEX).is_file():
        shards = sorted(set(read_json(folder / _INDEX, name).get("weight_map", {}).values()))
        missing = [shard for shard in shards if Path(shard).name != shard or not (folder / shard).is_file()]
        if missing or not shards:
            raise BrokenCheckpoint(f"{name}: {_INDEX} names {missing or 'no'} files that are not there; fetch it again")
        return tuple(folder / shard for shard in shards)
    found = {file.name: file for pattern in PICKLES for file in folder.glob(pattern) if file.name not in _OF_TRAINING}
    for usual in ("pytorch_model.bin", "open_clip_pytorch_model.bin"):
        if usual in found:
            return (found[usual],)
    if not found:
        raise BrokenCheckpoint(
            f"{name} has no pickled weights: expected pytorch_model.bin, its shards, or one .bin or .pt file"
        )
    if len(found) > 1:
        raise BrokenCheckpoint(
            f"{name} has several files of weights; name one of them: {', '.join(sorted(found))} "
            f"(sightline convert {given}/FILE OUT)"
        )
    return tuple(found.values())


@contextmanager
def _workplace(out: Path) -> Iterator[Path]:
    """A folder of the final name beside the final place; what is left of it in the end is removed."""
    above: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        above = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        folder = above / out.name
        folder.mkdir()
        yield folder
    except (OSError, SafetensorError) as error:
        raise CannotWrite(f"{out} cannot be written: {first_line(error)}") from error
    finally:
        if above is not None:
            shutil.rmtree(above, ignore_errors=True)


def _write_weights(source: _Source, folder: Path, tell: Progress) -> tuple[Counter[str], list[str]]:
    """One file of safetensors for each pickle, and an index where there are several."""
    formats: Counter[str] = Counter()
    skipped: list[str] = []
    place: dict[str, str] = {}
    total = 0
    for number, pickled in enumerate(source.pickles, 1):
        tell(f"opening {pickled.name}", 0.0)
        weights = read_weights(pickled)
        skipped += weights.skipped
        name = WEIGHTS
        if len(source.pickles) > 1:
            name = f"model-{number:05d}-of-{len(source.pickles):05d}.safetensors"
        elif (source.folder / OPEN_CLIP_CONFIG).is_file() and any(key.startswith("visual.") for key in weights.tensors):
            name = OPEN_CLIP_WEIGHTS
        tensors = _on_their_own(weights.tensors)
        size = sum(tensor.nbytes for tensor in tensors.values())
        with _watched(folder, size, f"writing {name}", tell):
            save_file(tensors, folder / name, metadata={"format": "pt"})
        place |= dict.fromkeys(tensors, name)
        formats.update(str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values())
        total += size
    if len(source.pickles) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": place}
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index, indent=2, sort_keys=True))
    return formats, skipped


def _on_their_own(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Contiguous tensors with memory of their own: safetensors holds no two names for one piece of memory.

    Tied weights are written under each of their names, so that nothing depends on who ties them again.
    """
    users = Counter(tensor.untyped_storage().data_ptr() for tensor in tensors.values())
    return {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        if users[tensor.untyped_storage().data_ptr()] > 1
        else tensor.detach().contiguous()
        for name, tensor in tensors.items()
    }


@contextmanager
def _watched(folder: Path, size: int, what: str, tell: Progress) -> Iterator[None]:
    """Report how much of a file has been written while the body writes it; under which name is safetensors' affair."""
    done = threading.Event()
    before = _size(folder)

    def watch() -> None:
        while not done.wait(0.2):
            tell(what, min(1.0, (_size(folder) - before) / max(size, 1)))

    thread = threading.Thread(target=watch, name="conversion-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    tell(what, 1.0)


def _size(folder: Path) -> int:
    total = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # renamed meanwhile
            total += path.stat().st_size
    return total


def _copy_rest(source: _Source, folder: Path) -> None:
    """Configuration, tokenizer and image processor; nothing else of the checkpoint is taken over."""
    kept: Sequence[str] = _KEPT
    if (folder / OPEN_CLIP_WEIGHTS).is_file():
        # With the config.json of a conversion beside it, it would be taken for one that transformers saved.
        kept = (OPEN_CLIP_CONFIG, *_KEPT[3:])
        tower = read_json(source.folder / OPEN_CLIP_CONFIG, source.name).get("model_cfg", {}).get("text_cfg", {})
        kept = (*kept, f"{Path(tower.get('hf_model_name') or 'none').name}/config.json")
    for pattern in kept:
        for file in source.folder.glob(pattern):
            target = folder / file.relative_to(source.folder)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, target)


def _write_passport(source: _Source, folder: Path, passport: Passport) -> None:
    origin = {"model": source.name, "revision": source.revision,
              "files": {path.name: _sha256(path) for path in source.pickles}}  # fmt: skip
    content = passport.to_dict() | {"converted_from": origin}
    written = folder / PASSPORT
    written.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    for path in folder.glob("*.safetensors"):
        path.chmod(written.stat().st_mode)  # safetensors lets the owner alone read what it writes


def _check_same(out: Path, folder: Path) -> None:
    """What is there already must be what was made now, but for the versions of libraries in the passport."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(file.relative_to(folder))
        there = out / name
        if name == PASSPORT:
            stored = Passport.from_dict(read_json(there, out.name))
            same = not Passport.from_dict(read_json(file, out.name)).differences(stored)
        else:
            same = there.is_file() and _sha256(there) == _sha256(file)
        if not same:
            raise CannotWrite(
                f"{out} is there and holds another model (its {name} differs); choose a folder that does not exist"
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
