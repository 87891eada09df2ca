"""Vectors that were computed elsewhere, into a space: checked, and copied in binary."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
import structlog
from psycopg.types.json import Jsonb

from sightline.errors import RequestRefused, UsageError
from sightline.ingest import check_collection
from sightline.progress import progress_bar
from sightline.space import bulk_advice
from sightline.transfer.binary import copy_rows, normalise
from sightline.transfer.columns import PASSPORT_FILE, VECTOR_COLUMN
from sightline.transfer.rows import BadRow, RowReader, Target
from sightline.transfer.sample import SampleCheck, check_sample
from sightline.transfer.seen import Seen
from sightline.transfer.shards import BATCH_ROWS, Shard, find_shards

if TYPE_CHECKING:
    from sightline.searches import Searches

log = structlog.get_logger(__name__)


@dataclass
class ImportReport:
    """What became of the rows of an import: rows = stored + replaced + unchanged + failed.

    Args:
        new_items: items that were made; the other vectors belong to items that were there.
        stored, replaced, unchanged: vectors.
        job_id: the job whose failures are the bad rows; None where there are none.
        sample: how vectors compare with the space's model, where that was asked.
        rows_per_second: over the whole import.
        indexes: HNSW indexes that the vectors were inserted through, slowly.
    """

    rows: int = 0
    new_items: int = 0
    stored: int = 0
    replaced: int = 0
    unchanged: int = 0
    failed: int = 0
    job_id: int | None = None
    sample: SampleCheck | None = None
    rows_per_second: float = 0.0
    indexes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Problem:
    """A row that could not be imported."""

    name: str
    error_class: str
    message: str


def import_vectors(
    client: Searches,
    space: str,
    vectors: Sequence[Path],
    ids: Sequence[Path] = (),
    *,
    collection: str | None = None,
    modality: str = "image",
    id_column: str | None = None,
    source_column: str | None = None,
    text_column: str | None = None,
    vector_column: str = VECTOR_COLUMN,
    root: Path | None = None,
    passport: Path | None = None,
    assume_passport: bool = False,
    progress: bool = False,
) -> ImportReport:
    """See `Sightline.import_vectors`."""
    if collection is not None:
        check_collection(collection)
    if modality not in {"image", "text"}:
        raise UsageError(f"modality must be image or text, not {modality!r}")
    target = client.space(space)
    shards = find_shards(vectors, ids, vector_column)
    total = sum(shard.check(target.dim) for shard in shards)
    reader = RowReader(collection, modality, id_column, source_column, text_column, root and root.absolute())
    first = next((row for shard in shards for row in shard.ids.read()), None)
    if first is not None:
        reader.check(first)
    report = ImportReport(rows=total)
    declared = passport or _passport_beside(vectors)
    if declared is not None:
        _check_passport(client, target.name, declared)
    elif not assume_passport:
        raise UsageError(
            f"nothing says which model computed these vectors: give its {PASSPORT_FILE} (--passport), or, if you know "
            f"that it is {target.model}, --assume-passport"
        )
    else:
        report.sample = check_sample(client, target, shards, reader)
    _warn_of_indexes(client, target.name, modality, total, report)
    return _Import(client, target.name, target.dim, target.modalities, reader, report).run(shards, progress=progress)


def _warn_of_indexes(client: Searches, space: str, modality: str, rows: int, report: ImportReport) -> None:
    advice = bulk_advice(client.database, space, rows, modality=modality)
    report.indexes = advice.indexes
    if report.indexes and rows > BATCH_ROWS:
        log.warning("vectors_go_through_an_index", advice=advice.advice)


def _passport_beside(vectors: Sequence[Path]) -> Path | None:
    for path in vectors:
        beside = (path if path.is_dir() else path.parent) / PASSPORT_FILE
        if beside.is_file():
            return beside
    return None


def _check_passport(client: Searches, space: str, file: Path) -> None:
    """Refuse vectors of another model than the space's; the database says in what they differ."""
    try:
        passport = json.loads(file.read_text(encoding="utf-8"))
        model, dim = passport["model"], passport["dim"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{file} is no passport: {type(error).__name__}: {error}") from error
    try:
        with client.database.transaction() as connection:
            # Creating what exists only compares the passports.
            connection.execute("select sightline.create_space(%s, %s, %s, %s)", (space, model, dim, Jsonb(passport)))
    except RequestRefused as error:
        raise RequestRefused(f"the vectors are not of the space's model, says {file}: {error}") from error


class _Import:
    """One run."""

    def __init__(
        self,
        client: Searches,
        space: str,
        dim: int,
        modalities: Sequence[str],
        reader: RowReader,
        report: ImportReport,
    ) -> None:
        self._client = client
        self._space = space
        self._dim = dim
        self._modalities = modalities
        self._reader = reader
        self._report = report
        self._seen = Seen()

    def run(self, shards: Sequence[Shard], *, progress: bool) -> ImportReport:
        """Read, check and store everything."""
        began = time.monotonic()
        with progress_bar("imported", enabled=progress, total=self._report.rows) as advance:
            for shard in shards:
                number = 0
                for vectors, problems, rows in shard.batches(self._dim):
                    self._batch(f"of {shard.ids.path.name}", number, vectors, problems, rows)
                    number += len(rows)
                    advance(len(rows))
        if self._report.job_id is not None:
            with self._client.database.transaction() as connection:
                connection.execute("select sightline.seal_job(%s)", (self._report.job_id,))
        self._report.rows_per_second = self._report.rows / max(time.monotonic() - began, 1e-9)
        return self._report

    def _batch(
        self,
        where: str,
        number: int,
        vectors: np.ndarray,
        problems: Mapping[int, str],
        rows: Sequence[Mapping[str, Any]],
    ) -> None:
        """Store the rows of a batch, whose first one has this number in its file."""
        bad: list[Problem] = []
        targets: dict[int, Target] = {}
        for n, row in enumerate(rows):
            try:
                if n in problems:
                    raise BadRow("WrongDimension", problems[n])
                targets[n] = self._reader.read(row)
                if targets[n].modality not in self._modalities:
                    raise BadRow("UnsupportedModality", f"the space takes no {targets[n].modality} items")
            except BadRow as error:
                targets.pop(n, None)
                bad.append(Problem(_name(row, number + n), error.error_class, f"row {number + n} {where}: {error}"))
        given = np.array([targets[n].norm if n in targets else None for n in range(len(rows))], np.float64)
        units, norms, unfit = normalise(vectors, given)
        for n, problem in unfit.items():
            if n in targets:
                name = targets.pop(n).external_id
                bad.append(Problem(name, "BadVector", f"row {number + n} {where}: {problem}"))
        for n in self._duplicates(targets):
            name = targets.pop(n).external_id
            bad.append(
                Problem(name, "DuplicateId", f"row {number + n} {where}: its id was given before; the first counts")
            )
        with self._client.database.transaction() as connection:
            if targets:
                copy_rows(connection, targets, units, norms)
                stored = connection.execute(
                    "select t.* from sightline.resolve_space(%s) s, sightline.store_import(s.space_id) t",
                    (self._space,),
                ).fetchone()
                assert stored is not None
                self._count(*stored[:4])
                bad += [Problem(targets[c["n"]].external_id, "OtherItem", c["message"]) for c in stored[4]]
            if bad:
                self._fail(connection, bad)

    def _count(self, new_items: int, stored: int, replaced: int, unchanged: int) -> None:
        self._report.new_items += new_items
        self._report.stored += stored
        self._report.replaced += replaced
        self._report.unchanged += unchanged

    def _duplicates(self, targets: Mapping[int, Target]) -> list[int]:
        """Rows whose id an earlier row of this import had."""
        keys = [f"{target.collection}\0{target.external_id}" for target in targets.values()]
        known = self._seen.add(keys)
        suspects = [target for target, hit in zip(targets.values(), known, strict=True) if hit]
        stored: set[str] = set()
        if suspects:  # two ids may have one hash; what was really given before is in the database by now
            with self._client.database.transaction() as connection:
                rows = connection.execute(
                    "select c.name || chr(1) || i.external_id "
                    "from unnest(%s::text[], %s::text[]) g(collection, external_id) "
                    "join sightline.collection c on c.name = g.collection "
                    "join sightline.item i on i.collection_id = c.collection_id and i.external_id = g.external_id",
                    ([t.collection for t in suspects], [t.external_id for t in suspects]),
                ).fetchall()
            stored = {name.replace("\x01", "\0", 1) for (name,) in rows}
        found, here = [], set[str]()
        for n, key, hit in zip(targets, keys, known, strict=True):
            if key in here or (hit and key in stored):
                found.append(n)
            here.add(key)
        return found

    def _fail(self, connection: psycopg.Connection, bad: Sequence[Problem]) -> None:
        """Bad rows are failures of a job, as those of an ingest are."""
        self._report.failed += len(bad)
        if self._report.job_id is None:
            opened = connection.execute(
                "select (sightline.open_job('encode', %s, %s, 'bulk')).job_id",
                (Jsonb({"space": self._space}), self._reader.collection),
            ).fetchone()
            assert opened is not None
            self._report.job_id = opened[0]
        failures = [
            {"external_id": _clean(one.name)[:500], "error": {"class": one.error_class, "message": _clean(one.message)}}
            for one in bad
        ]
        connection.execute("select sightline.add_items(%s, %s)", (self._report.job_id, Jsonb(failures)))


def _name(row: Mapping[str, Any], number: int) -> str:
    return str(row.get("external_id") or row.get("id") or f"row {number}")


def _clean(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")
