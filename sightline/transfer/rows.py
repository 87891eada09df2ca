"""One row of an import: which item its vector belongs to."""

from __future__ import annotations

import datetime
import decimal
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sightline.content import source_tag
from sightline.errors import UsageError
from sightline.item import MAX_EXTERNAL_ID, is_storable, path_of_uri, printable, root_name
from sightline.transfer.columns import EXPORT_COLUMNS

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_DIGEST = re.compile(r"[0-9a-f]{64}")


class BadRow(Exception):
    """A row that cannot be imported; its neighbours are."""

    def __init__(self, error_class: str, message: str) -> None:
        super().__init__(message)
        self.error_class = error_class


@dataclass(frozen=True)
class Target:
    """What a row is imported as. `path` is its file, if it has one on this machine."""

    external_id: str
    collection: str
    modality: str
    uri: str | None
    text: str | None
    source_tag: str | None = None
    digest: bytes | None = None
    root: str | None = None
    group_key: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    norm: float | None = None
    path: Path | None = None


@dataclass(frozen=True)
class RowReader:
    """Reads rows of one import.

    Args:
        collection: None takes the one that an exported row names.
        modality: of rows that do not name their own.
        id_column: the external_id; by default `external_id` or `id`, else what `source_column` names.
        source_column: a path or URI of the content; by default `uri`.
        text_column: the text, of rows of texts; by default `text`.
        root: paths are relative to it, and ids that are paths are named relative to it.
    """

    collection: str | None
    modality: str
    id_column: str | None = None
    source_column: str | None = None
    text_column: str | None = None
    root: Path | None = None

    def check(self, row: Mapping[str, Any]) -> None:
        """Refuse columns that the first row does not have. Raises UsageError."""
        given = {
            "--id-column": self.id_column,
            "--source-column": self.source_column,
            "--text-column": self.text_column,
        }
        for option, column in given.items():
            if column is not None and column not in row:
                raise UsageError(f"there is no column {column!r} ({option}); columns: {', '.join(row)}")
        if self._id_column(row) is None:
            raise UsageError(f"which column is the id? --id-column, one of: {', '.join(row)}")
        if _is_text(row, self.modality) and (self.text_column or "text") not in row:
            raise UsageError(f"texts are stored with their text: --text-column, one of: {', '.join(row)}")

    def read(self, row: Mapping[str, Any]) -> Target:
        """The item of a row. Raises BadRow."""
        text = None
        path = uri = tag = None
        source = row.get(self.source_column or "uri")
        if _is_text(row, self.modality):
            text = row.get(self.text_column or "text")
            if not isinstance(text, str) or not text.strip():
                raise BadRow("EmptyText", "it has no text")
        elif source is not None and not isinstance(source, str):
            raise BadRow("BadSource", f"its source must be a path or URI, not {source!r:.50}")
        elif source and not source.startswith("vector:"):
            path, uri = self._source(source)
            tag = _tag(path)
        external_id, root = self._external_id(row, path)
        if text is None and uri is None:
            uri = f"vector:{quote(external_id)}"  # says that there is no content to encode again
        exported = set(EXPORT_COLUMNS) <= row.keys()
        target = Target(
            external_id,
            self.collection or (str(row["collection"]) if exported else "default"),
            "text" if text is not None else "image",
            uri, text, tag, _digest(row, text), root,
            _string(row.get("group_key")), self._metadata(row, exported=exported),
            float(row["norm"]) if exported and row["norm"] is not None else None,
            path,
        )  # fmt: skip
        if not is_storable([target.external_id, target.collection, uri, text, target.group_key, target.metadata]):
            raise BadRow("BadText", "it contains a NUL character or a lone surrogate, which Postgres cannot store")
        return target

    def _id_column(self, row: Mapping[str, Any]) -> str | None:
        return self.id_column or next((name for name in ("external_id", "id", self.source_column) if name in row), None)

    def _external_id(self, row: Mapping[str, Any], path: Path | None) -> tuple[str, str | None]:
        """The id and, if it is a path below the root, the root."""
        column = self._id_column(row)
        value = row.get(column) if column is not None else None
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or not value:
            raise BadRow("BadExternalId", f"its id must be a string or number and not empty, not {value!r:.50}")
        root = None
        if (
            column == self.source_column
            and path is not None
            and self.root is not None
            and path.is_relative_to(self.root)
        ):
            value, root = printable(path.relative_to(self.root)), root_name(self.root)
        if len(value.encode("utf-8", "replace")) > MAX_EXTERNAL_ID:
            raise BadRow("BadExternalId", f"its id is longer than {MAX_EXTERNAL_ID:,} bytes")
        return value, root

    def _source(self, source: str) -> tuple[Path | None, str]:
        """The file of a source, if it is one, and its URI."""
        if source.startswith("file:///"):
            return Path(path_of_uri(source)), source
        if _SCHEME.match(source):
            return None, source
        path = Path(self.root or "", source).absolute()
        return path, path.as_uri()

    def _metadata(self, row: Mapping[str, Any], *, exported: bool) -> dict[str, Any]:
        if exported:
            given = row["metadata"] or {}
            metadata = json.loads(given) if isinstance(given, str) else given
        else:
            used = {self._id_column(row), self.source_column, "group_key"}
            metadata = {name: value for name, value in row.items() if name not in used and not _is_nothing(value)}
        try:
            json.dumps(metadata, allow_nan=False, default=_plain)
        except (TypeError, ValueError) as error:
            raise BadRow("BadMetadata", f"its metadata is not JSON: {error}") from error
        return {str(name): value for name, value in metadata.items()}


def plain_json(metadata: Mapping[str, Any]) -> str:
    """Metadata as JSON; times become ISO strings, decimals numbers."""
    return json.dumps(metadata, default=_plain, ensure_ascii=False)


def _plain(value: object) -> object:
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return float(value)
    raise TypeError(f"a {type(value).__name__} is not JSON")


def _is_nothing(value: object) -> bool:
    """None, or NaN, which a table has where it has no number."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _is_text(row: Mapping[str, Any], modality: str) -> bool:
    given = row.get("modality")
    return (given if given in {"image", "text"} else modality) == "text"


def _digest(row: Mapping[str, Any], text: str | None) -> bytes | None:
    if text is not None:
        return hashlib.sha256(text.encode("utf-8", "replace")).digest()
    given = row.get("digest")
    return bytes.fromhex(given) if isinstance(given, str) and _DIGEST.fullmatch(given) else None


def _tag(path: Path | None) -> str | None:
    """So that a later ingest of the same file finds it unchanged."""
    try:
        return None if path is None else source_tag(path.stat())
    except (OSError, ValueError):
        return None


def _string(value: object) -> str | None:
    return None if value is None else str(value)
