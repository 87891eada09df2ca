"""A submitted job: its progress and its end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import structlog
from psycopg.rows import class_row
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from sightline.control import cancel
from sightline.database import Database, LentConnection, driver_connection
from sightline.errors import JobFailed, JobNotVisible, PolicyRefused, ServiceMissing
from sightline.pulse import SILENT_SECONDS
from sightline.space import BulkAdvice, bulk_advice
from sightline.submission import Submission

log = structlog.get_logger(__name__)

OUTAGE_SECONDS = 60
"""How long `wait` bears with a database that cannot be reached."""


@dataclass(frozen=True)
class JobProgress:
    """A row of the view `job_progress`. submitted = done + failed + skipped + cancelled + pending, always."""

    job_id: int
    kind: str
    state: str
    lane: str
    collection: str | None
    space: str | None
    submitted: int
    done: int
    failed: int
    skipped: int
    unchanged: int
    pending: int
    cancelled: int
    created_at: datetime
    started_at: datetime | None
    sealed_at: datetime | None
    finished_at: datetime | None
    error: str | None
    retry_of: int | None
    paused: bool
    """Nothing of it starts: its queue or its collection is paused."""
    open_failures: int
    """Of those that failed: neither retried nor dismissed."""
    items_per_second: float | None
    """Of the last minute; of the whole job once it is over."""
    seconds_left: int | None
    """At that rate, for what was submitted so far."""
    oldest_seconds: float | None
    """How long its oldest work has been due and not begun."""
    silent_seconds: float | None
    """How long its submitter, who may add more, has given no sign of life; None once the job is sealed."""

    @property
    def finished(self) -> bool:
        """Whether every item is terminal."""
        return self.finished_at is not None


@dataclass(frozen=True)
class Failure:
    """One item that a job could not do."""

    failure_id: int
    job_id: int
    collection: str | None
    item_id: int | None
    external_id: str
    error_class: str
    message: str
    attempt: int


@dataclass(frozen=True)
class Note:
    """What the stored vector of an item does not show of its content."""

    external_id: str
    note: str


class Job:
    """A job by its number. Cheap to make: nothing is asked until a method is called.

    Args:
        database: that has it.
        job_id: its number.
        lent: the caller's connection in whose transaction it was submitted just now.
    """

    def __init__(self, database: Database, job_id: int, lent: LentConnection | None = None) -> None:
        self.job_id = job_id
        self._database = database
        self._submission = None if lent is None else Submission(driver_connection(lent))

    def __repr__(self) -> str:
        return f"Job({self.job_id})"

    def progress(self) -> JobProgress:
        """What became of the job's items so far.

        Raises:
            JobNotVisible: there is no such job, or its transaction has not committed.
        """
        if self._submission is not None and self._submission.stands():
            raise JobNotVisible(f"the transaction that submitted job {self.job_id} has not committed: commit it first")
        with (
            self._database.transaction() as connection,
            connection.cursor(row_factory=class_row(JobProgress)) as cursor,
        ):
            row = cursor.execute(
                # A producer may not read the ledger, but ask for what it submitted.
                "select p.* from sightline.progress_of(%s) j, "
                "jsonb_populate_record(null::sightline.job_progress, j) p where j is not null",
                (self.job_id,),
            ).fetchone()
        if row is None:
            raise JobNotVisible(
                f"job {self.job_id} does not exist, or the transaction that submitted it has not committed"
            )
        return row

    def cancel(self) -> str:
        """Cancel it: what is queued never starts, what runs stops at the next batch, what is done stays.

        Returns:
            The state: `cancelled`, `cancelling` while something runs, or how the job had ended before.
        """
        return cancel(self._database, self.job_id)

    def seal(self, *, force: bool = False) -> bool:
        """Say that no more items come, for a submitter that died; the job ends with what was submitted.

        Returns:
            Whether it was open until now.

        Raises:
            PolicyRefused: its submitter has given a sign of life within a minute, and `force` is not set.
            JobNotVisible: there is no such job.
        """
        now = self.progress()
        if now.silent_seconds is None:
            return False
        if now.silent_seconds < SILENT_SECONDS and not force:
            raise PolicyRefused(
                f"the submitter of job {self.job_id} gave a sign of life {now.silent_seconds:g} s ago, and what it "
                f"still has to give would be refused; --force (force=True) seals the job all the same"
            )
        with self._database.transaction() as connection:
            connection.execute("select sightline.seal_job(%s, 'sealed by ' || session_user)", (self.job_id,))
        return True

    def followers(self) -> list[Job]:
        """Jobs that this one submitted: those that encode the captions that it wrote."""
        with self._database.transaction() as connection:
            rows = connection.execute("select sightline.followers_of(%s) order by 1", (self.job_id,)).fetchall()
        return [Job(self._database, row[0]) for row in rows]

    def failures(self, limit: int = 100) -> list[Failure]:
        """The first failures of the job that were neither retried nor dismissed, oldest first.

        Raises:
            JobNotVisible: there is no such job, or its transaction has not committed.
        """
        columns = ", ".join(Failure.__dataclass_fields__)
        with self._database.transaction() as connection, connection.cursor(row_factory=class_row(Failure)) as cursor:
            rows = cursor.execute(
                f"select {columns} from sightline.failures_of(%s, %s) order by failure_id", (self.job_id, limit)
            ).fetchall()
        if not rows:
            self.progress()  # a job that cannot be seen has no failures either
        return rows

    def notes(self, limit: int = 100) -> tuple[list[Note], int]:
        """The first remarks on items that this job stored, by external_id, and how many there are.

        An animation of which the first frame counts, a text that was cut, a colour profile that is damaged.
        """
        with self._database.transaction() as connection:
            rows = connection.execute(
                "select external_id, note, total from sightline.notes_of(%s, %s) order by external_id",
                (self.job_id, limit),
            ).fetchall()
        return [Note(external_id, note) for external_id, note, _ in rows], rows[0][2] if rows else 0

    def wait(self, timeout: float | None = None, *, progress: bool = False) -> JobProgress:
        """Wait until every item is done, failed or skipped. Items that failed do not raise: see `failures()`.

        Args:
            timeout: seconds; None waits for ever.
            progress: draw a bar with rate and time left on stderr.

        Raises:
            JobNotVisible: the job's transaction has not committed.
            JobFailed: the job could not run, or was cancelled.
            ServiceMissing: the database was out of reach for a minute.
            TimeoutError: it was not finished in time.
        """
        end = None if timeout is None else time.monotonic() + timeout
        pause, warn_at = 0.02, time.monotonic() + 10
        with _bar(enabled=progress) as bar:
            while True:
                now = self._progress_through_outages(end)
                if bar is not None:
                    _draw(bar, now)
                if now.finished:
                    break
                if end is not None and time.monotonic() > end:
                    raise TimeoutError(
                        f"job {self.job_id} was not finished after {timeout:g} s: {now.pending} items are pending"
                    )
                if time.monotonic() > warn_at:
                    warn_at = time.monotonic() + 60
                    self._warn_if_stuck(now)
                time.sleep(pause)
                pause = min(pause * 1.5, 0.5)
        if now.state != "done":
            raise JobFailed(f"job {self.job_id} was {now.state}{': ' + now.error if now.error else ''}")
        return now

    def index_advice(self) -> BulkAdvice | None:
        """What the vectors to come take through the indexes of their space; None for a job without a space."""
        now = self.progress()
        return None if now.space is None else bulk_advice(self._database, now.space, now.pending)

    def _progress_through_outages(self, end: float | None) -> JobProgress:
        """The progress; a database that restarts is given a while, for the job goes on without whoever waits."""
        give_up = time.monotonic() + OUTAGE_SECONDS
        if end is not None:
            give_up = min(give_up, end)
        while True:
            try:
                return self.progress()
            except ServiceMissing as error:
                if time.monotonic() > give_up:
                    raise ServiceMissing(f"{error}; job {self.job_id} goes on without this wait") from error
                time.sleep(0.5)

    def _warn_if_stuck(self, now: JobProgress) -> None:
        if now.paused:
            log.warning("the job's queue or collection is paused: sightline resume", job_id=self.job_id)
            return
        with self._database.transaction() as connection:
            queues = connection.execute("select sightline.unserved_queues_of(%s)", (self.job_id,)).fetchall()
        if queues:
            log.warning(
                "no worker is serving a queue of this job", job_id=self.job_id, queues=[queue for (queue,) in queues]
            )


@contextmanager
def _bar(*, enabled: bool) -> Iterator[Progress | None]:
    if not enabled:
        yield None
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bar:
        bar.add_task("waiting", total=None, rate="")
        yield bar


def _doing(now: JobProgress) -> str:
    if now.paused:
        return "paused"
    return now.kind if now.started_at or not now.pending else "waiting for a worker"


def _draw(bar: Progress, now: JobProgress) -> None:
    terminal = now.submitted - now.pending
    speed = bar.tasks[0].speed
    rate = f"{speed:,.0f}/s" if speed else ""
    if now.failed:
        rate += f" ({now.failed:,} failed)"
    bar.update(
        TaskID(0),
        description=_doing(now),
        total=now.submitted if now.sealed_at else None,
        completed=terminal,
        rate=rate,
    )
