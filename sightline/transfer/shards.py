"""Vectors and ids in files: found, paired and counted before a row is read, then read a batch at a time."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sightline.errors import UsageError
from sightline.transfer.columns import VECTOR_COLUMN, pyarrow

BATCH_ROWS = 4096
_VECTOR_ENDINGS = (".npy", ".parquet")
_ID_ENDINGS = (".parquet", ".jsonl", ".json", ".txt", ".npy")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class VectorFile:
    """A `.npy` matrix, which is mapped and never loaded whole, or a list column of a parquet file."""

    path: Path
    column: str = VECTOR_COLUMN

    @cached_property
    def _matrix(self) -> np.ndarray:
        try:
            matrix: np.ndarray = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UsageError(f"{self.path} is no .npy file of numbers: {error}") from error
        if matrix.ndim != 2:
            raise UsageError(f"{self.path} has the shape {matrix.shape}; it must be (rows, dimensions)")
        if matrix.dtype not in {np.dtype(np.float16), np.dtype(np.float32)}:
            raise UsageError(
                f"{self.path} holds {matrix.dtype}; vectors are float16 or float32: convert it with .astype"
            )
        return matrix

    @cached_property
    def rows(self) -> int:
        """How many vectors."""
        if self.path.suffix == ".npy":
            return len(self._matrix)
        return int(_parquet(self.path, self.column).metadata.num_rows)

    def check(self, dim: int) -> None:
        """Refuse a file whose vectors have another dimension. Raises UsageError."""
        if self.path.suffix == ".npy":
            given = self._matrix.shape[1]
        else:  # a list of any length has none: each row is looked at
            given = getattr(_parquet(self.path, self.column).schema_arrow.field(self.column).type, "list_size", dim)
        if given != dim:
            raise UsageError(f"{self.path} has vectors of {given} dimensions, the space has {dim}")

    def batches(self, dim: int) -> Iterator[tuple[np.ndarray, dict[int, str]]]:
        """float16 or float32 (n, dim) with at most `BATCH_ROWS` rows, and what is wrong with some of them."""
        if self.path.suffix == ".npy":
            for start in range(0, self.rows, BATCH_ROWS):
                yield np.asarray(self._matrix[start : start + BATCH_ROWS]), {}
            return
        for batch in _parquet(self.path, self.column).iter_batches(BATCH_ROWS, columns=[self.column]):
            matrix, problems = np.zeros((len(batch), dim), np.float32), {}
            for row, vector in enumerate(batch.column(0).to_numpy(zero_copy_only=False)):
                if vector is None or len(vector) != dim:
                    problems[row] = f"it has {0 if vector is None else len(vector)} numbers, the space has {dim}"
                else:
                    matrix[row] = vector
            yield matrix, problems


def _parquet(path: Path, *columns: str) -> Any:
    arrow, parquet = pyarrow()
    try:
        file = parquet.ParquetFile(path)
    except (OSError, arrow.ArrowException) as error:
        raise UsageError(f"{path} is no parquet file: {error}") from error
    absent = [column for column in columns if column not in file.schema_arrow.names]
    if absent:
        raise UsageError(f"{path} has no column {absent[0]!r}; columns: {', '.join(file.schema_arrow.names)}")
    return file


@dataclass(frozen=True)
class IdFile:
    """Ids, or whole rows, in the order of the vectors: lines (.txt), JSON, JSON lines, a .npy array, or parquet."""

    path: Path
    without: str | None = None  # a column of vectors in the same parquet file

    @cached_property
    def rows(self) -> int:
        """How many rows; counted by reading them where the format does not say."""
        if self.path.suffix == ".parquet":
            return int(_parquet(self.path).metadata.num_rows)
        return sum(1 for _ in self.read())

    def read(self) -> Iterator[Row]:
        """Rows one by one; a bare id is a row of `{"id": ...}`.

        Raises:
            UsageError: the file cannot be read as what its name says.
        """
        try:
            for value in self._values():
                yield value if isinstance(value, Mapping) else {"id": value}
        except (OSError, ValueError) as error:
            raise UsageError(f"{self.path} cannot be read: {error}") from error

    def _values(self) -> Iterator[Any]:
        ending = self.path.suffix
        if ending == ".parquet":
            file = _parquet(self.path)
            columns = [name for name in file.schema_arrow.names if name != self.without]
            for batch in file.iter_batches(BATCH_ROWS, columns=columns):
                yield from batch.to_pylist()
        elif ending == ".npy":
            ids = np.load(self.path, mmap_mode="r", allow_pickle=False)
            if ids.ndim != 1:
                raise ValueError(f"ids are one-dimensional, not of shape {ids.shape}")
            yield from (str(value) for value in ids)
        elif ending == ".json":
            values = json.loads(self.path.read_text(encoding="utf-8"))
            if not isinstance(values, list):
                raise ValueError("it must be a JSON array")
            yield from values
        else:
            with self.path.open(encoding="utf-8") as lines:
                for line in lines:
                    yield json.loads(line) if ending == ".jsonl" else line.rstrip("\r\n")


@dataclass(frozen=True)
class Shard:
    """Vector files whose rows, one after the other, are those of one id file."""

    vectors: tuple[VectorFile, ...]
    ids: IdFile

    def check(self, dim: int) -> int:
        """The number of rows. Raises UsageError: another dimension, or not as many ids as vectors."""
        for file in self.vectors:
            file.check(dim)
        rows = sum(file.rows for file in self.vectors)
        if rows != self.ids.rows:
            names = ", ".join(file.path.name for file in self.vectors[:3]) + (", ..." if len(self.vectors) > 3 else "")
            raise UsageError(f"{names} has {rows:,} vectors, {self.ids.path} has {self.ids.rows:,} ids")
        return rows

    def batches(self, dim: int) -> Iterator[tuple[np.ndarray, dict[int, str], list[Row]]]:
        """Vectors, what is wrong with some of them, and their rows."""
        rows = self.ids.read()
        for file in self.vectors:
            for matrix, problems in file.batches(dim):
                yield matrix, problems, list(itertools.islice(rows, len(matrix)))


def find_shards(vectors: Sequence[Path], ids: Sequence[Path], column: str = VECTOR_COLUMN) -> list[Shard]:
    """Pair files of vectors with files of ids; a folder stands for its files, ordered by the numbers in their names.

    Args:
        vectors: `.npy` or parquet files, or folders of them.
        ids: as many files as there are of vectors, or one for all; none where the vectors' parquet files hold the ids
            too, or for a folder that `sightline export` wrote.
        column: of the vectors in parquet files.

    Raises:
        UsageError: there are no files, or their numbers do not fit.
    """
    files = _files(vectors, _VECTOR_ENDINGS, "vectors")
    found = [VectorFile(path, column) for path in files]
    if not ids:
        inside = [
            IdFile(path, column) if path.suffix == ".parquet" else IdFile(path.with_name(_items_name(path)))
            for path in files
        ]
        for one in inside:
            if not one.path.is_file():
                raise UsageError(f"there are no ids beside the vectors ({one.path} is not there): give them with --ids")
        return [Shard((one,), beside) for one, beside in zip(found, inside, strict=True)]
    paths = _files(ids, _ID_ENDINGS, "ids")
    if len(paths) == 1:
        return [Shard(tuple(found), IdFile(paths[0]))]
    if len(paths) != len(found):
        raise UsageError(f"{len(found)} files of vectors and {len(paths)} of ids: as many, or one file of ids for all")
    return [Shard((one,), IdFile(path)) for one, path in zip(found, paths, strict=True)]


def _items_name(vectors: Path) -> str:
    return vectors.with_suffix(".jsonl").name.replace("vectors", "items")


def _files(given: Sequence[Path], endings: tuple[str, ...], what: str) -> list[Path]:
    files: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = [file for file in path.iterdir() if file.suffix in endings and not file.name.startswith(".")]
            kinds = {file.suffix for file in inside}
            if what == "vectors" and ".npy" in kinds:
                kinds = {".npy"}
            if len(kinds) > 1:
                raise UsageError(f"{path} holds {', '.join(sorted(kinds))}: name the files of {what} one by one")
            files += sorted((file for file in inside if file.suffix in kinds), key=_natural)
        elif path.suffix not in endings:
            raise UsageError(f"{path} is none of {', '.join(endings)}")
        elif not path.is_file():
            raise UsageError(f"there is no file {path}")
        else:
            files.append(path)
    if not files:
        raise UsageError(
            f"there are no files of {what} ({', '.join(endings)}) in {', '.join(map(str, given)) or 'nothing'}"
        )
    return files


def _natural(path: Path) -> list[tuple[int, str]]:
    """img_emb_2 comes before img_emb_10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", path.name)]
