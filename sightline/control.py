"""Control over jobs and queues: cancel, pause, resume, retry, dismiss, rate limits, reconcile.

SQL functions of the same names do the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg.rows import class_row

from sightline.database import Database


@dataclass(frozen=True)
class Retry:
    """What `retry` made of the failures of one job.

    Args:
        retry_of: the job in which they failed.
        new_job_id: the job that does the items again; None when none of them can be.
        items: of the new job.
        left_open: failures that cannot be retried, because nothing of them is stored: they could not be read when they
            were submitted. Mend the files and ingest them again, or dismiss them.
    """

    retry_of: int
    new_job_id: int | None
    items: int
    left_open: int


@dataclass(frozen=True)
class Missing:
    """Items of a collection that lacked a vector for one reason, and what `reconcile` did about them.

    Args:
        reason: as in the view `missing_items`. `failed`, `stale` and `never submitted` are enqueued; `queued` and
            `running` are under way already; `dismissed` and `no content` are left.
        job_id: the job that does them; None when nothing was enqueued.
    """

    collection: str
    reason: str
    items: int
    job_id: int | None


@dataclass(frozen=True)
class FailureFilter:
    """Which failures are meant, among those that were neither retried nor dismissed. None admits all.

    At least one filter is given, or `everything`: SQL refuses it else.
    """

    job_id: int | None = None
    collection: str | None = None
    error_class: str | None = None
    failure_ids: Sequence[int] | None = None
    everything: bool = False

    @property
    def params(self) -> tuple[Any, ...]:
        """The arguments of the SQL functions."""
        ids = None if self.failure_ids is None else list(self.failure_ids)
        return self.job_id, self.collection, self.error_class, ids, self.everything


def retry(database: Database, which: FailureFilter) -> list[Retry]:
    """Do failed items again, in a new job for each job that they failed in; the failures are settled by it."""
    with database.transaction() as connection, connection.cursor(row_factory=class_row(Retry)) as cursor:
        return cursor.execute("select * from sightline.retry(%s, %s, %s, %s, %s)", which.params).fetchall()


def dismiss(database: Database, which: FailureFilter) -> int:
    """Settle failures that nobody will mend; returns how many. They stay rows of `sightline.failure`."""
    return int(_call(database, "select sightline.dismiss(%s, %s, %s, %s, %s)", *which.params))


def cancel(database: Database, job_id: int) -> str:
    """Cancel a job; returns its state: `cancelled`, `cancelling` while something runs, or how it had ended before."""
    return str(_call(database, "select sightline.cancel(%s)", job_id))


def pause(database: Database, queue: str | None, collection: str | None, reason: str | None) -> bool:
    """Start nothing of a queue or a collection any more; returns whether it was not paused before."""
    return bool(_call(database, "select sightline.pause(%s, %s, %s)", queue, collection, reason))


def resume(database: Database, queue: str | None, collection: str | None) -> bool:
    """Let a paused queue or collection go on; returns whether it was paused."""
    return bool(_call(database, "select sightline.resume(%s, %s)", queue, collection))


def rate_limit(database: Database, collection: str, items_per_second: float | None) -> float | None:
    """Let so many items of a collection start in a second, or lift the limit; returns the one that was there before."""
    before = _call(database, "select sightline.rate_limit(%s, %s)", collection, items_per_second)
    return None if before is None else float(before)


def reconcile(database: Database, space: str, collection: str | None) -> list[Missing]:
    """Enqueue the items of `missing(space)` and nothing else, in a job for each collection."""
    with database.transaction() as connection, connection.cursor(row_factory=class_row(Missing)) as cursor:
        return cursor.execute(
            "select collection_name as collection, reason, items, job_id from sightline.reconcile(%s, %s)",
            (space, collection),
        ).fetchall()


def _call(database: Database, statement: LiteralString, *params: object) -> Any:
    with database.transaction() as connection:
        row = connection.execute(statement, params).fetchone()
    assert row is not None
    return row[0]
