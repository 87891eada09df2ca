"""A checkpoint's files on this disk, and reading them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import BrokenCheckpoint

OPEN_CLIP_CONFIG = "open_clip_config.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One checkpoint on this disk, checked to hold safetensors of a supported type and no code.

    Args:
        model: public id: the hub id, the folder's name, or `BUNDLED_ID`.
        revision: commit of the hub repository; None for folders.
        source: where it came from, for people: "hub", "bundled" or the folder's path. Not part of any identity.
        folder: the files.
        kind: one of `models.families.FAMILIES`.
        weights: the safetensors files, sorted by name.
    """

    model: str
    revision: str | None
    source: str
    folder: Path
    kind: str
    weights: tuple[Path, ...]

    def weights_digest(self) -> str:
        """sha256 of the weights; one file gives what `sha256sum` prints, shards the sha256 of their `sha256sum` lines.

        Reads all of the weights (about a second per gigabyte), so call it once per load.
        """
        digests = [(_sha256(path), path.name) for path in self.weights]
        if len(digests) == 1:
            return digests[0][0]
        return hashlib.sha256("".join(f"{digest}  {name}\n" for digest, name in digests).encode()).hexdigest()


def state_of(folder: Path) -> tuple[tuple[str, int, int, int], ...]:
    """What changes when somebody writes to a file of a folder: name, size, time and inode of each."""
    files = sorted((path.name, path.stat()) for path in folder.iterdir() if path.is_file())
    return tuple((name, found.st_size, found.st_mtime_ns, found.st_ino) for name, found in files)


def read_json(path: Path, name: str) -> dict[str, Any]:
    """The object in a JSON file of the checkpoint called `name`.

    Raises:
        BrokenCheckpoint: no such file, or something else in it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BrokenCheckpoint(
            f"{name} has no {path.name}; expected a folder saved by transformers or open_clip"
        ) from error
    except (OSError, ValueError) as error:
        raise BrokenCheckpoint(f"{path.name} of {name} cannot be read: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise BrokenCheckpoint(f"{path.name} of {name} is not a JSON object")
    return content


def first_line(error: BaseException) -> str:
    """The first line of an error's message, for a message of ours that has to stay on one line."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
