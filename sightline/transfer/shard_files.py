"""Shards of images with their captions: tar files in WebDataset's layout, or parquet."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from sightline.errors import UsageError
from sightline.transfer.columns import pyarrow

HELD_BYTES = 32 * 2**20
"""Of images that wait for a row group of parquet."""

_ENDINGS = {"JPEG": "jpg", "TIFF": "tif"}


@dataclass(frozen=True)
class Pair:
    """One image with what is said of it.

    Args:
        key: of the sample, without a dot; the same whenever it is exported.
        image: the bytes of the file.
        ending: of the file's name, by its content.
        text: the caption to train on.
        about: JSON: the item, and all its captions with their scores and provenance.
    """

    key: str
    image: bytes
    ending: str
    text: str
    about: dict[str, Any]


class ShardFile(Protocol):
    """One file that is being written."""

    def add(self, pair: Pair) -> None:
        """Write one more."""

    def close(self) -> None:
        """End the file."""


def ending_of(image: bytes) -> str:
    """How the name of an image file ends, by its content. Raises UsageError: it is no image."""
    try:
        with Image.open(io.BytesIO(image)) as opened:
            return _ENDINGS.get(opened.format or "", (opened.format or "bin").lower())
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError(f"it is no image file: {error}") from error


class TarShard:
    """`key.jpg`, `key.txt` and `key.json` for each pair, side by side; the same pairs give the same bytes."""

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - closed by close()

    def add(self, pair: Pair) -> None:
        """Write one more."""
        about = json.dumps(pair.about, ensure_ascii=False, sort_keys=True).encode()
        for ending, content in ((pair.ending, pair.image), ("txt", pair.text.encode()), ("json", about)):
            member = tarfile.TarInfo(f"{pair.key}.{ending}")
            member.size = len(content)
            self._tar.addfile(member, io.BytesIO(content))

    def close(self) -> None:
        """End the file."""
        self._tar.close()


class ParquetShard:
    """A row for each pair: key, image, ending, text, and the rest as JSON, with the figures as columns of their own."""

    def __init__(self, path: Path) -> None:
        self._arrow, self._parquet = pyarrow()
        arrow = self._arrow
        text, number = arrow.string(), arrow.float32()
        caption = [
            ("text", text), ("recipe", text), ("model", text), ("lang", text), ("n", arrow.int32()), ("score", number),
            ("alignment", number), ("match", number), ("selected", arrow.bool_()), ("negative", arrow.bool_()),
            ("stale", arrow.bool_()), ("params", text), ("provenance", text),
        ]  # fmt: skip
        self._fields = [name for name, _ in caption]
        self._schema = arrow.schema([
            ("key", text), ("external_id", text), ("collection", text), ("image", arrow.binary()), ("ending", text),
            ("text", text), ("captions", arrow.list_(arrow.struct(caption))), ("digest", text), ("uri", text),
            ("metadata", text),
        ])  # fmt: skip
        self._file = self._parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._held: list[dict[str, Any]] = []
        self._bytes = 0

    def add(self, pair: Pair) -> None:
        """Write one more."""
        about = pair.about
        captions = [{name: _plain(caption.get(name)) for name in self._fields} for caption in about["captions"]]
        row = {name: _plain(about[name]) for name in ("external_id", "collection", "digest", "uri", "metadata")}
        row |= {"key": pair.key, "image": pair.image, "ending": pair.ending, "text": pair.text, "captions": captions}
        self._held.append(row)
        self._bytes += len(pair.image)
        if self._bytes >= HELD_BYTES:
            self._flush()

    def close(self) -> None:
        """End the file."""
        self._flush()
        self._file.close()

    def _flush(self) -> None:
        if self._held:
            self._file.write_table(self._arrow.Table.from_pylist(self._held, schema=self._schema))
            self._held, self._bytes = [], 0


def _plain(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, sort_keys=True) if isinstance(value, (dict, list)) else value


SHARDS: dict[str, tuple[str, type[TarShard] | type[ParquetShard]]] = {
    "webdataset": ("tar", TarShard),
    "parquet": ("parquet", ParquetShard),
}
"""By format: how the names of its files end, and what writes them."""
