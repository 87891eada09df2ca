"""Streaming items into the database as one job."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from psycopg import Cursor
from psycopg.rows import TupleRow, tuple_row
from psycopg.types.json import Jsonb

from sightline.content import Prepared, Stored, prepare, reject
from sightline.database import Database, LentConnection
from sightline.errors import JobFailed, RequestRefused, SightlineError, UsageError
from sightline.item import Found, Ingestible, Item, expand, is_folder, is_storable, walk
from sightline.job import Job
from sightline.media import MediaStore
from sightline.objects import is_object_folder
from sightline.progress import progress_bar
from sightline.pulse import Pulse
from sightline.settings import Settings

BATCH_ITEMS = 2048
BATCH_BYTES = 8 * 2**20
BATCH_SECONDS = 1.0
"""A batch is one transaction: small enough for memory, large enough that round trips do not count; of a slow stream it
is what came in a second."""

T = TypeVar("T")


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
        check_collection(collection)
        self._database = database
        self._settings = settings
        self._collection = collection
        self._space = space
        self._request = ("encode", Jsonb({"space": space}), collection, lane)
        self._connection = connection
        self._media = MediaStore(settings.media_url) if settings.media_url else None
        self._job_id: int | None = None

    def run(self, items: Ingestible | Iterable[Ingestible], root: Path | None, *, progress: bool = False) -> Job:
        """Read the stream to its end. When it raises, what was read so far is still done, and the job says so."""
        if self._connection is not None:
            # All in the caller's transaction, which takes everything back when this raises.
            with tuple_cursor(self._database, self._connection) as cursor:
                self._open(cursor)
                for batch in self._batches(items, root):
                    self._add(cursor, batch)
                self._seal(cursor)
            return self._job()
        with tuple_cursor(self._database) as cursor:
            self._open(cursor)
        try:
            with (
                Pulse(self._database, self._job().job_id),
                progress_bar("submitted", enabled=progress, count=lambda: count_items(items)) as advance,
            ):
                for batch in one_ahead(self._store, self._batches(items, root)):
                    advance(len(batch))
        except BaseException as error:
            self._seal_broken(error)
            if isinstance(error, RequestRefused) and (now := self._job().progress()).state.startswith("cancel"):
                raise JobFailed(
                    f"job {self._job_id} was {now.error}: {now.submitted:,} items were submitted before"
                ) from error
            if isinstance(error, SightlineError):
                raise type(error)(f"{error} (job {self._job_id} goes on with what was submitted)") from error
            raise
        with tuple_cursor(self._database) as cursor:
            self._seal(cursor)
        return self._job()

    def _batches(self, items: Ingestible | Iterable[Ingestible], root: Path | None) -> Iterator[list[Prepared]]:
        prepared = prepare_stream(
            self._database,
            self._settings,
            self._collection,
            self._space,
            expand(items, root),
            connection=self._connection,
        )
        return batches(prepared, lambda one: len(one.blob or b""))

    def _job(self) -> Job:
        assert self._job_id is not None
        return Job(self._database, self._job_id, self._connection)

    def _open(self, cursor: Cursor[TupleRow]) -> None:
        row = cursor.execute("select (sightline.open_job(%s, %s, %s, %s)).job_id", self._request).fetchone()
        assert row is not None
        self._job_id = row[0]

    def _store(self, batch: list[Prepared]) -> None:
        if any(one.blob is not None for one in batch):
            with tuple_cursor(self._database) as cursor:
                self._add(cursor, batch)
        else:
            # One round trip, not three: each has to wait until the thread that prepares lets go of the GIL.
            with self._database.statement() as connection, Cursor(connection, row_factory=tuple_row) as cursor:
                self._add(cursor, batch)

    def _add(self, cursor: Cursor[TupleRow], batch: list[Prepared]) -> None:
        blobs = {bytes.fromhex(p.spec["digest"]): p.blob for p in batch if p.blob is not None}
        if blobs and self._media is not None:
            digests = sorted(blobs)
            for digest in digests:
                self._media.put(digest, blobs[digest])
            sizes = [len(blobs[digest]) for digest in digests]
            cursor.execute("select sightline.register_blobs(%b::bytea[], %s::bigint[])", (digests, sizes))
        elif blobs:
            missing = cursor.execute("select sightline.missing_blobs(%b::bytea[])", (list(blobs),)).fetchall()
            # Sorted, so that two ingests of the same files cannot wait for each other crosswise.
            contents = [blobs[digest] for (digest,) in sorted(missing)]
            cursor.execute("select sightline.add_blobs(%b::bytea[])", (contents,))
        specs = f"[{','.join(p.json for p in batch)}]"
        cursor.execute("select sightline.feed(%s, %s::jsonb)", (self._job_id, specs))

    def _seal(self, cursor: Cursor[TupleRow], error: str | None = None) -> None:
        cursor.execute("select sightline.end_feed(%s, %s)", (self._job_id, error))

    def _seal_broken(self, error: BaseException) -> None:
        """Close the stream after an error, if the database still answers; else the first error is the one to see."""
        try:
            with tuple_cursor(self._database) as cursor:
                self._seal(cursor, f"the ingest broke off: {type(error).__name__}: {error}")
        except SightlineError:
            pass


@contextmanager
def tuple_cursor(database: Database, lent: LentConnection | None = None) -> Iterator[Cursor[TupleRow]]:
    """A cursor in `database.transaction(lent)` that gives tuples, whatever the factories of a lent connection."""
    with database.transaction(lent) as connection, Cursor(connection, row_factory=tuple_row) as cursor:
        yield cursor


def prepare_stream(
    database: Database,
    settings: Settings,
    collection: str,
    space: str,
    found: Iterable[Found],
    *,
    read: bool = True,
    connection: LentConnection | None = None,
) -> Iterator[Prepared]:
    """Prepare items one by one; what is stored of them is looked up a group at a time."""
    with tuple_cursor(database, connection) as cursor:
        row = cursor.execute("select name, modalities from sightline.resolve_space(%s)", (space,)).fetchone()
    assert row is not None
    name, modalities = row
    for group in batches(found, lambda one: len(one.item.data) if isinstance(one.item.data, bytes) else 0):
        stored = _stored(database, collection, [one.item for one in group], connection)
        for one in group:
            modality = "image" if one.item.text is None else "text"
            if modality not in modalities:
                yield reject(one.item, "UnsupportedModality", f"space {name} takes no {modality}s")
                continue
            yield prepare(one, settings, stored.get(one.item.external_id or ""), read=read)


def _stored(
    database: Database, collection: str, items: list[Item], connection: LentConnection | None
) -> Mapping[str, Stored]:
    """What the database has of the files among some items."""
    ids = [i.external_id for i in items if i.path is not None and isinstance(i.external_id, str)]
    ids = [external_id for external_id in ids if is_storable(external_id)]
    if not ids:
        return {}
    with tuple_cursor(database, connection) as cursor:
        rows = cursor.execute(
            "select external_id, uri, source_tag, digest, uploaded from sightline.stored_sources(%s, %s)",
            (collection, ids),
        ).fetchall()
    return {external_id: Stored(*row) for external_id, *row in rows}


def one_ahead(step: Callable[[T], object], stream: Iterable[T]) -> Iterator[T]:
    """Take each of a stream through a step in a thread, while the next one is made; yields it once that is done."""
    with ThreadPoolExecutor(1, thread_name_prefix="ingest") as thread:
        under_way: tuple[T, Future[object]] | None = None
        for one in stream:
            if under_way is not None:
                under_way[1].result()
                yield under_way[0]
            under_way = one, thread.submit(step, one)
        if under_way is not None:
            under_way[1].result()
            yield under_way[0]


def batches(stream: Iterable[T], size_of: Callable[[T], int]) -> Iterator[list[T]]:
    """Batches of a stream, of bounded number, size and age."""
    batch: list[T] = []
    size, began = 0, time.monotonic()
    try:
        for one in stream:
            batch.append(one)
            size += size_of(one)
            if len(batch) >= BATCH_ITEMS or size >= BATCH_BYTES or time.monotonic() > began + BATCH_SECONDS:
                yield batch
                batch, size, began = [], 0, time.monotonic()
    except Exception:
        if batch:
            yield batch  # what was read before the stream broke is done
        raise
    if batch:
        yield batch


def count_items(items: Ingestible | Iterable[Ingestible]) -> int | None:
    """How many items a list of paths will yield; None for a stream, which is read only once, and folders of objects."""
    if isinstance(items, (str, os.PathLike)):
        items = [items]
    if not isinstance(items, (list, tuple)) or any(is_object_folder(getattr(one, "uri", one)) for one in items):
        return None
    return sum(
        sum(1 for _ in walk(Path(one))) if isinstance(one, (str, os.PathLike)) and is_folder(Path(one)) else 1
        for one in items
    )


def check_collection(name: object) -> None:
    """Refuse what cannot be the name of a collection.

    Raises:
        UsageError: it says why.
    """
    if not isinstance(name, str) or not name:
        raise UsageError(f"the name of a collection must be a string and not empty, not {name!r:.50}")
    if len(name) > 200:
        raise UsageError(f"the name of a collection has at most 200 characters, not {len(name)} ({name[:40]!r}...)")
    if not is_storable(name):
        raise UsageError(
            f"the collection {name!r:.50} has a NUL character or a lone surrogate: Postgres cannot store it"
        )
