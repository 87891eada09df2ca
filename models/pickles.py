"""Weights out of a pickle that torch.save wrote, without running anything that it asks for.

A pickle names functions, and whoever opens it calls them. Two guards stand here, either of which would do: the names
are read from the file's instructions, which executes none of them, and all must be on a list of what plain tensors and
containers need; then torch opens it with `weights_only=True`, which has a list of its own.
"""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from models.errors import BrokenCheckpoint, ModelError, UnsafeCheckpoint
from models.files import first_line

_DTYPES = {str(value) for value in vars(torch).values() if isinstance(value, torch.dtype)}
_STORAGES = {f"torch.{name}" for name in vars(torch) if name.endswith("Storage")}
_ALLOWED = _DTYPES | _STORAGES | {
    "collections.OrderedDict",
    "torch.Size",
    "torch.device",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch.storage.UntypedStorage",
}  # fmt: skip
_LEGACY_PICKLES = 5  # magic number, protocol, machine, the object, keys of its storages; raw bytes follow
_LARGEST = 256 * 2**20
"""Bytes of instructions; those of a model with ten thousand tensors are two megabytes."""
_PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every name."""


@dataclass(frozen=True, slots=True)
class Weights:
    """What a pickle held.

    Args:
        tensors: by name, in their own number formats, on the CPU.
        skipped: names of entries beside them that are no tensors.
    """

    tensors: dict[str, torch.Tensor]
    skipped: tuple[str, ...]


def read_weights(path: Path) -> Weights:
    """The weights in a file of torch.save: a state dict, or a training checkpoint with one under "state_dict".

    Raises:
        UnsafeCheckpoint: it asks for something that is neither a tensor nor a container; the message names it.
        BrokenCheckpoint: it cannot be read, or holds no weights.
    """
    try:
        asked = _asked(path)
    except ModelError:
        raise
    except Exception as error:
        raise BrokenCheckpoint(
            f"{path.name} is no file that torch.save wrote, or is cut short: {first_line(error)}"
        ) from error
    foreign = sorted(asked - _ALLOWED)
    if foreign:
        raise UnsafeCheckpoint(
            f"{path.name} asks for {', '.join(foreign)}, which is neither a tensor nor a container, so it was not "
            f"opened; get a file with the weights alone (torch.save(model.state_dict(), ...)) from whoever made it"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except pickle.UnpicklingError as error:
        raise UnsafeCheckpoint(f"torch refuses to open {path.name}: {first_line(error)}") from error
    except Exception as error:  # a damaged file may end it anywhere
        raise BrokenCheckpoint(f"{path.name} cannot be read: {first_line(error)}; fetch it again") from error
    return _weights(content, path.name)


def _is_zip(path: Path) -> bool:
    """As torch decides it: the archives of torch.save begin with their first entry."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _asked(path: Path) -> set[str]:
    """Every name that the file's pickles would look up. Executes nothing."""
    asked: set[str] = set()
    if not _is_zip(path):
        with path.open("rb") as file:
            try:
                for _ in range(_LEGACY_PICKLES):
                    asked.update(_names(file))
            except ValueError:
                if asked <= _ALLOWED:
                    raise
        return asked
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.filename.endswith("/constants.pkl") for entry in entries):
            raise UnsafeCheckpoint(
                f"{path.name} is a TorchScript archive, a program and not a file of weights; use a checkpoint of this "
                f"model in the format of transformers or open_clip"
            )
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"its entry {entry.filename} is compressed")
            if entry.filename.endswith(".pkl"):
                if entry.file_size > _LARGEST:
                    raise ValueError(f"its entry {entry.filename} has {entry.file_size} bytes")
                with archive.open(entry) as file:
                    asked.update(_names(file))
    return asked


def _names(file: IO[bytes]) -> Iterator[str]:
    """The names that one pickle would look up, for use at once; leaves the file behind the pickle's end."""
    for operation, argument, _ in pickletools.genops(file):
        if operation.name in {"GLOBAL", "INST"}:
            yield str(argument).replace(" ", ".", 1)
        elif operation.name == "STACK_GLOBAL" or operation.name.startswith("EXT"):
            yield f"a name that it computes ({operation.name})"  # torch.save writes neither


def _weights(content: Any, name: str) -> Weights:
    beside: list[str] = []
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        beside = [str(key) for key in content if key != "state_dict"]
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise BrokenCheckpoint(f"{name} holds a {type(content).__name__}; expected a state dict of names and tensors")
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and _is_plain(value)}
    if not tensors:
        shown = ", ".join(sorted(map(str, content))[:5]) or "nothing"
        raise BrokenCheckpoint(
            f"{name} holds no weights but {shown}; expected names with tensors, at the top or under 'state_dict'"
        )
    odd = [key for key, value in content.items() if isinstance(value, torch.Tensor) and key not in tensors]
    if odd:
        raise BrokenCheckpoint(f"{name} holds sparse, quantised or complex tensors, such as {odd[0]}; save dense ones")
    return Weights(
        _without_prefix(tensors), tuple(sorted([*beside, *(str(key) for key in content if key not in tensors)]))
    )


def _is_plain(value: Any) -> bool:
    return (
        type(value) in {torch.Tensor, torch.nn.Parameter}
        and value.layout == torch.strided
        and not (value.is_quantized or value.is_meta or value.is_complex())
    )


def _without_prefix(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    for prefix in _PREFIXES * 2:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors
