"""Moves due chunks from the ledger to Redis, and lost ones back. Every worker runs one; one of them leads."""

from __future__ import annotations

import time
import uuid
from collections import defaultdict

import structlog

from sightline.broker import CHUNKS_TASK, Broker
from workers.database import Connection, connect
from workers.ledger import MAX_ATTEMPTS
from workers.loop import Loop
from workers.queries import query

log = structlog.get_logger(__name__)

PER_SLOT = 6
"""Chunks that are published or running for each slot; the backlog waits in the ledger. A message has up to four, so two
slots have one each, and one is claimed ahead: with fewer a slot stands idle until the next look."""
SWEEP_SECONDS = 1.0
FORGET_SECONDS = 60.0
"""Between two looks for jobs that ended long ago; as long as there are some, the next look comes at once."""


class LeadLost(Exception):
    """This process was away for longer than its lead lasts."""


class Dispatcher:
    """Leads while its lease row lasts: publishes, sweeps, and publishes again what Redis has lost.

    Args:
        database_url: of Postgres; the dispatcher has a connection of its own.
        broker: to publish.
        worker_id: of this worker.
        lease_seconds: of chunks. The leader's own lease is 0.4 of it. Published chunks that nobody claims are given two
            thirds of it (10 s of 15 s) if Redis holds none of them, four times as long otherwise.
        poll_seconds: between two looks for new work.
        keep_jobs_days: after which finished jobs are forgotten.
    """

    def __init__(
        self, database_url: str, broker: Broker, worker_id: uuid.UUID, lease_seconds: float, poll_seconds: float,
        keep_jobs_days: float,
    ) -> None:  # fmt: skip
        self._url = database_url
        self._broker = broker
        self._worker_id = worker_id
        self._lease = lease_seconds
        self._keep_jobs_days = keep_jobs_days
        self._forget_at = 0.0
        self._lead_seconds = max(1.0, 0.4 * lease_seconds)
        self._connection: Connection | None = None
        self._steady_since = 0.0  # of time.monotonic(), as the other two
        self._swept_at = 0.0
        self._asked_at = -1e9
        self._database_time = 0.0  # when the lead was last asked for, by the clock that counts
        self._leads = False
        self._loop = Loop("dispatcher", self._turn, poll_seconds)

    def start(self) -> None:
        """Start the thread."""
        self._loop.start()

    @property
    def leads(self) -> bool:
        """Whether this worker led when it last looked."""
        return self._leads

    def stop(self) -> None:
        """End the thread and give up the lead, so that another worker takes over at once."""
        if self._loop.stop(3.0) and self._connection is not None:
            try:
                self._connection.execute(query("stop_leading"), {"worker_id": self._worker_id})
                self._connection.close()
            except Exception as error:  # noqa: BLE001 - the lead ends by itself
                log.warning("lead_not_given_up", error=str(error).strip())

    def _turn(self) -> None:
        try:
            connection = self._connected()
            if not self._lead(connection):
                return
            self._publish(connection)
            if time.monotonic() - self._swept_at > SWEEP_SECONDS:
                self._swept_at = time.monotonic()
                self._maintain(connection)
        except BaseException:
            if self._connection is not None and self._connection.broken:
                self._connection = None
            raise

    def _connected(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._url)
            self._steady_since = time.monotonic()
        return self._connection

    def _lead(self, connection: Connection) -> bool:
        """Whether this worker leads; asks again, and so renews, each quarter of the lead's own lease."""
        asked = time.monotonic()
        if asked - self._asked_at < self._lead_seconds / 4:
            return self._leads
        row = connection.execute(
            query("lead"), {"worker_id": self._worker_id, "seconds": self._lead_seconds}
        ).fetchone()
        assert row is not None
        self._asked_at = asked
        if row["now"] - self._database_time > self._lease:
            # This process, or its whole machine, was frozen: its neighbours may have been too, and look lost.
            self._steady_since = time.monotonic()
        self._database_time = row["now"]
        leads = bool(row["lead"])
        if leads != self._leads:
            log.info("dispatcher_leads" if leads else "dispatcher_follows")
        self._leads = leads
        return leads

    def _publish(self, connection: Connection) -> None:
        """Take what fits, commit (each statement is its own transaction), then publish.

        A leader that was frozen takes nothing once its lease is over (the statement checks that), and publishes nothing
        that it took before.
        """
        arguments = {"lease": self._lease, "per_slot": PER_SLOT, "worker_id": self._worker_id}
        messages: dict[str, list[list[int]]] = defaultdict(list)
        for row in connection.execute(query("take_unpublished"), arguments).fetchall():
            messages[row["queue"]].append(row["chunk_ids"])
        for queue, chunks in messages.items():
            try:
                if time.monotonic() - self._asked_at > self._lead_seconds:
                    raise LeadLost(f"chunks of queue {queue} are left to the next leader")
                self._broker.push(queue, CHUNKS_TASK, [{"chunk_ids": chunk_ids} for chunk_ids in chunks])
            except BaseException:
                # Some may have arrived: a duplicate finds nothing to claim.
                ids = [chunk_id for chunk_ids in chunks for chunk_id in chunk_ids]
                connection.execute(query("release"), {"chunk_ids": ids, "worker_id": self._worker_id})
                raise
            log.debug("published", queue=queue, messages=len(chunks))

    def _maintain(self, connection: Connection) -> None:
        # After an outage of Postgres every worker looks lost until it had time to beat.
        steady = time.monotonic() - self._steady_since > self._lease
        arguments = {"lease": self._lease, "max_attempts": MAX_ATTEMPTS, "worker_id": self._worker_id}
        connection.execute(query("vouch"), arguments)  # who sweeps is alive, even if its heartbeat is late
        row = connection.execute(query("sweep" if steady else "sweep_declared"), arguments).fetchone()
        if row and row["sweep"]:
            log.warning("lost_workers_swept", chunks=row["sweep"])
        if steady:
            connection.execute(query("forget_workers"))
            self._forget_jobs(connection)
        self._publish_lost(connection)

    def _forget_jobs(self, connection: Connection) -> None:
        if time.monotonic() < self._forget_at:
            return
        row = connection.execute(query("forget_jobs"), {"days": self._keep_jobs_days}).fetchone()
        forgotten = row["jobs"] if row else 0
        if forgotten:
            log.info("jobs_forgotten", jobs=forgotten, ended_days_ago=self._keep_jobs_days)
        self._forget_at = time.monotonic() + (0.0 if forgotten else FORGET_SECONDS)

    def _publish_lost(self, connection: Connection) -> None:
        """Redis may lose messages, and workers die with messages in hand; the ledger still has the chunks."""
        soon, late = self._lease * 2 / 3, self._lease * 4
        for row in connection.execute(query("waiting_long"), {"seconds": soon, "longest": late}).fetchall():
            empty = self._broker.waiting(row["queue"]) == 0
            if empty or row["very_long"]:
                arguments = {"queue": row["queue"], "seconds": soon if empty else late}
                again = connection.execute(query("publish_again"), arguments).rowcount
                log.warning("published_again", queue=row["queue"], chunks=again, redis_was_empty=empty)
