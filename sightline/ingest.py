"""Streaming items into the database as one job."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import psycopg
from psycopg.types.json import Jsonb
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

from sightline.database import Database, LentConnection
from sightline.errors import SightlineError
from sightline.item import Ingestible, Prepared, expand, prepare
from sightline.job import Job
from sightline.settings import Settings

BATCH_ITEMS = 512
BATCH_BYTES = 8 * 2**20
"""A batch is one transaction: small enough for memory, large enough that round trips do not count."""


class Ingest:
    """One job that items are added to until the stream ends."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        *,
        collection: str,
        space: str,
        lane: str,
        connection: LentConnection | None,
    ) -> None:
        self._database = database
        self._settings = settings
        self._request = ("encode", Jsonb({"space": space}), collection, lane)
        self._connection = connection
        self._job_id: int | None = None

    def run(self, items: Ingestible | Iterable[Ingestible], root: Path | None, *, progress: bool = False) -> Job:
        """Read the stream to its end. When it raises, what was read so far is still done, and the job says so."""
        prepared = (prepare(item, self._settings) for item in expand(items, root))
        if self._connection is not None:
            # All in the caller's transaction, which takes everything back when this raises.
            with self._database.transaction(self._connection) as connection:
                self._open(connection)
                for batch in _batches(prepared):
                    self._add(connection, batch)
                self._seal(connection)
            return self._job()
        with self._database.transaction() as connection:
            self._open(connection)
        try:
            with _counter(enabled=progress) as bar:
                for batch in _batches(prepared):
                    with self._database.transaction() as connection:
                        self._add(connection, batch)
                    bar.advance(bar.task_ids[0], len(batch))
        except BaseException as error:
            self._seal_cut(error)
            if isinstance(error, SightlineError):
                raise type(error)(f"{error} (job {self._job_id} goes on with what was submitted)") from error
            raise
        with self._database.transaction() as connection:
            self._seal(connection)
        return self._job()

    def _job(self) -> Job:
        assert self._job_id is not None
        return Job(self._database, self._job_id)

    def _open(self, connection: psycopg.Connection) -> None:
        row = connection.execute("select (sightline.open_job(%s, %s, %s, %s)).job_id", self._request).fetchone()
        assert row is not None
        self._job_id = row[0]

    def _add(self, connection: psycopg.Connection, batch: list[Prepared]) -> None:
        # Sorted, so that two ingests of the same files cannot wait for each other crosswise.
        blobs = {bytes.fromhex(p.spec["digest"]): p.blob for p in batch if p.blob is not None}
        if blobs:
            known = connection.execute(
                "select digest from sightline.blob where digest = any(%s)", (list(blobs),)
            ).fetchall()
            new = sorted(blobs.keys() - {digest for (digest,) in known})
            connection.execute(
                "insert into sightline.blob (digest, bytes) select * from unnest(%b::bytea[], %b::bytea[]) "
                "on conflict do nothing",
                (new, [blobs[digest] for digest in new]),
            )
        connection.execute("select sightline.add_items(%s, %s)", (self._job_id, Jsonb([p.spec for p in batch])))

    def _seal(self, connection: psycopg.Connection, error: str | None = None) -> None:
        connection.execute("select sightline.seal_job(%s, %s)", (self._job_id, error))

    def _seal_cut(self, error: BaseException) -> None:
        """Close the stream after an error, if the database still answers; else the first error is the one to see."""
        try:
            with self._database.transaction() as connection:
                self._seal(connection, f"the ingest broke off: {type(error).__name__}: {error}")
        except SightlineError:
            pass


def _batches(prepared: Iterable[Prepared]) -> Iterator[list[Prepared]]:
    batch: list[Prepared] = []
    size = 0
    try:
        for one in prepared:
            batch.append(one)
            size += len(one.blob or b"")
            if len(batch) >= BATCH_ITEMS or size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
    except Exception:
        if batch:
            yield batch  # what was read before the stream broke is done
        raise
    if batch:
        yield batch


def _counter(*, enabled: bool) -> Progress:
    bar = Progress(
        SpinnerColumn(),
        TextColumn("submitted {task.completed:,.0f} items"),
        console=Console(stderr=True),
        transient=True,
        disable=not enabled,
    )
    bar.add_task("submit", total=None)
    return bar
