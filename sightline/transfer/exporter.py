"""The vectors of a space with their items, into files that an import reads."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import psycopg
from psycopg import sql

from sightline.errors import UsageError
from sightline.progress import progress_bar
from sightline.transfer.columns import EXPORT_COLUMNS, PASSPORT_FILE, VECTOR_COLUMN, pyarrow

if TYPE_CHECKING:
    from sightline.searches import Searches

Format = Literal["npy", "parquet"]
FETCH_ROWS = 2000
SHARD_BYTES = 64 * 2**20
"""Of vectors in one file: what an export to .npy holds in memory."""


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Args:
        rows: vectors.
        stale: vectors that were left out, because the content of their item has changed since.
        files: with vectors.
        rows_per_second: over the whole export.
    """

    folder: str
    rows: int
    stale: int
    files: int
    rows_per_second: float


@dataclass(frozen=True)
class _Batch:
    """Items in columns, and their vectors: float16 of length 1, or float32 times the norm, (n, dim)."""

    columns: dict[str, list[Any]]
    vectors: np.ndarray

    def __len__(self) -> int:
        return len(self.vectors)


class _Writer(Protocol):
    """Writes files into a folder, batch by batch."""

    files: int

    def write(self, batch: _Batch) -> None: ...

    def close(self) -> None: ...


def export_vectors(
    client: Searches,
    space: str,
    folder: Path,
    *,
    file_format: str = "npy",
    collection: str | None = None,
    modality: str | None = None,
    unnormalised: bool = False,
    progress: bool = False,
) -> ExportReport:
    """See `Sightline.export_vectors`."""
    if file_format not in _WRITERS:
        raise UsageError(f"the format must be one of {', '.join(_WRITERS)}, not {file_format!r}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already: an export makes a new folder")
    target = client.space(space)
    began = time.monotonic()
    partial = _partial(folder)
    (partial / PASSPORT_FILE).write_text(json.dumps(target.passport, indent=2) + "\n", encoding="utf-8")
    rows = 0
    with client.database.transaction() as connection:
        selected = _Selection(connection, target.name, collection, modality)
        total, stale = selected.count()
        writer = _WRITERS[file_format](partial, target.dim)
        with progress_bar("exported", enabled=progress, total=total) as advance:
            for batch in selected.batches(unnormalised=unnormalised):
                writer.write(batch)
                rows += len(batch)
                advance(len(batch))
        writer.close()
    if folder.exists():
        folder.rmdir()
    partial.rename(folder)  # whole or not at all
    return ExportReport(str(folder), rows, stale, writer.files, rows / max(time.monotonic() - began, 1e-9))


def _partial(folder: Path) -> Path:
    """The folder that an export is written to until it is whole; what an interrupted one left there goes."""
    partial = folder.with_name(f"{folder.name}.partial")
    if partial.exists():
        if not (partial / PASSPORT_FILE).is_file():
            raise UsageError(f"{partial} is in the way, and is not what an interrupted export left")
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    return partial


class _Selection:
    """Which vectors are exported: those of whole items, of their present content."""

    _FROM = sql.SQL(
        " from sightline.embedding e join sightline.item i on i.item_id = e.item_id "
        "join sightline.collection c on c.collection_id = i.collection_id "
        "where e.space_id = (select space_id from sightline.resolve_space(%(space)s)) and e.slot = 0 "
        "and i.parent_id is null and (%(collection)s::text is null or c.name = %(collection)s) "
        "and (%(modality)s::text is null or e.modality = %(modality)s)"
    )

    def __init__(
        self, connection: psycopg.Connection[Any], space: str, collection: str | None, modality: str | None
    ) -> None:
        self._connection = connection
        self._arguments = {"space": space, "collection": collection, "modality": modality}
        if collection is not None:
            known = "select 1 from sightline.collection where name = %s"
            if connection.execute(known, (collection,)).fetchone() is None:
                raise UsageError(f"there is no collection {collection!r}")

    def count(self) -> tuple[int, int]:
        """How many vectors are exported, and how many are left out as stale."""
        counts = sql.SQL("select count(*) filter (where e.generation = i.generation), "
                         "count(*) filter (where e.generation < i.generation)")  # fmt: skip
        row = self._connection.execute(counts + self._FROM, self._arguments).fetchone()
        assert row is not None
        return row[0], row[1]

    def batches(self, *, unnormalised: bool) -> Iterator[_Batch]:
        """Batches in order of the item's number, through a cursor of the server's."""
        row = self._connection.execute(
            "select n.nspname from pg_extension e join pg_namespace n on n.oid = e.extnamespace "
            "where e.extname = 'vector'"
        ).fetchone()
        assert row is not None
        query = (
            sql.SQL(
                "select i.external_id, c.name, i.modality, case when i.uri not like 'vector:%%' then i.uri end, "
                "i.text, encode(i.digest, 'hex'), i.group_key, i.metadata, e.norm, {}(e.vec)"
            ).format(sql.Identifier(row[0], "halfvec_send"))
            + self._FROM
            + sql.SQL(" and e.generation = i.generation order by e.item_id")
        )
        with self._connection.cursor("sightline_export", binary=True) as cursor:
            cursor.execute(query, self._arguments)
            while rows := cursor.fetchmany(FETCH_ROWS):
                *columns, vectors = zip(*rows, strict=True)
                named = {name: list(values) for name, values in zip(EXPORT_COLUMNS, columns, strict=True)}
                yield _Batch(named, _matrix(vectors, named["norm"], unnormalised=unnormalised))


def _matrix(sent: Sequence[bytes], norms: Sequence[float], *, unnormalised: bool) -> np.ndarray:
    """Vectors as halfvec_send gives them: two numbers of 16 bits, then the elements."""
    half = np.stack([np.frombuffer(one, ">f2", offset=4) for one in sent]).astype(np.float16)
    if not unnormalised:
        return half
    return half.astype(np.float32) * np.array(norms, np.float32)[:, None]


class _NpyWriter:
    """`vectors_00000.npy` and, row for row, `items_00000.jsonl`."""

    def __init__(self, folder: Path, dim: int) -> None:
        self.files = 0
        self._folder = folder
        self._shard_rows = max(1, SHARD_BYTES // (2 * dim))
        self._held: list[np.ndarray] = []
        self._rows = 0

    def write(self, batch: _Batch) -> None:
        items = self._folder / f"items_{self.files:05}.jsonl"
        with items.open("a", encoding="utf-8") as lines:
            for values in zip(*batch.columns.values(), strict=True):
                row = dict(zip(batch.columns, values, strict=True))
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._held.append(batch.vectors)
        self._rows += len(batch)
        if self._rows >= self._shard_rows:
            self.close()

    def close(self) -> None:
        """End the shard."""
        if self._held:
            np.save(self._folder / f"vectors_{self.files:05}.npy", np.concatenate(self._held))
            self.files += 1
            self._held, self._rows = [], 0


class _ParquetWriter:
    """`part_00000.parquet`: the items' columns, and `vector` as a list of float32, which every reader knows."""

    def __init__(self, folder: Path, dim: int) -> None:
        self.files = 0
        self._folder = folder
        self._dim = dim
        self._arrow, self._parquet = pyarrow()
        fields = [(name, self._arrow.string()) for name in EXPORT_COLUMNS if name != "norm"]
        fields += [("norm", self._arrow.float32()), (VECTOR_COLUMN, self._arrow.list_(self._arrow.float32(), dim))]
        self._schema = self._arrow.schema(fields)
        self._shard_rows = max(1, SHARD_BYTES // (2 * dim))
        self._open: Any = None
        self._rows = 0

    def write(self, batch: _Batch) -> None:
        arrow = self._arrow
        if self._open is None:
            path = self._folder / f"part_{self.files:05}.parquet"
            self._open = self._parquet.ParquetWriter(path, self._schema, compression="zstd")
        columns = batch.columns | {
            "metadata": [json.dumps(metadata, ensure_ascii=False) for metadata in batch.columns["metadata"]],
        }
        flat = arrow.array(batch.vectors.astype(np.float32).reshape(-1))
        arrays = [arrow.array(columns[field.name], field.type) for field in self._schema if field.name != VECTOR_COLUMN]
        arrays.append(arrow.FixedSizeListArray.from_arrays(flat, self._dim))
        self._open.write_table(arrow.Table.from_arrays(arrays, schema=self._schema))
        self._rows += len(batch)
        if self._rows >= self._shard_rows:
            self.close()

    def close(self) -> None:
        """End the file."""
        if self._open is not None:
            self._open.close()
            self.files += 1
            self._open, self._rows = None, 0


_WRITERS: dict[str, type[_NpyWriter] | type[_ParquetWriter]] = {"npy": _NpyWriter, "parquet": _ParquetWriter}
