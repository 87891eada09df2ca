"""What the leader tells Prometheus of the whole fleet: the age and cost of each queue, and how well indexes answer."""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg
import structlog

from workers import metrics
from workers.database import Pool
from workers.loop import Loop
from workers.queries import query

log = structlog.get_logger(__name__)

LOOK_SECONDS = 5.0
"""Between two looks at the ledger."""
RECALL_SECONDS = 600.0
"""Between two samples of the indexes."""
RECALL_TIMEOUT = "10s"
"""For the sample of one index: each of its vectors costs a scan of the space."""


class Load:
    """Sets the gauges of the fleet while this worker leads, and takes them back when another one does.

    So at any moment one worker alone has them, and a sum over all workers is right.

    Args:
        pool: of connections.
        leads: whether this worker leads.
    """

    def __init__(self, pool: Pool, leads: Callable[[], bool]) -> None:
        self._pool = pool
        self._leads = leads
        self._recall_at = time.monotonic() + RECALL_SECONDS / 10
        self._loop = Loop("load", self._turn, LOOK_SECONDS)

    def start(self) -> None:
        """Start the thread."""
        self._loop.start()

    def stop(self, timeout: float) -> None:
        """End the thread; what it told is taken back."""
        self._loop.stop(timeout)
        self._forget()

    def _turn(self) -> None:
        if not self._leads():
            self._forget()
            return
        try:
            self._tell_queues()
        except BaseException:
            self._forget()  # figures of before an outage are none
            raise
        if time.monotonic() > self._recall_at:
            self._recall_at = time.monotonic() + RECALL_SECONDS
            self.sample_recall()

    def _tell_queues(self) -> None:
        with self._pool.connection() as connection:
            rows = connection.execute(query("queue_load")).fetchall()
        metrics.LEADS.set(1)
        for gauge in metrics.OF_QUEUES:
            gauge.clear()
        for row in rows:
            queue = row["queue"]
            metrics.QUEUE_AGE.labels(queue).set(row["age_seconds"])
            metrics.QUEUE_COST.labels(queue).set(row["cost_seconds"])
            metrics.QUEUE_WORKERS.labels(queue).set(row["workers"])
            metrics.QUEUE_ITEMS.labels(queue, "queued").set(row["queued_items"])
            metrics.QUEUE_ITEMS.labels(queue, "running").set(row["running_items"])

    def sample_recall(self) -> None:
        """Measure each index that is there; one that takes too long is left out, and the log says so."""
        with self._pool.connection() as connection:
            indexes = connection.execute(query("indexed_modalities")).fetchall()
        metrics.RECALL.clear()
        for index in indexes:
            try:
                with self._pool.connection() as connection, connection.transaction():
                    connection.execute("select set_config('statement_timeout', %s, true)", (RECALL_TIMEOUT,))
                    found = connection.execute(query("sample_recall"), index).fetchone()
            except psycopg.errors.QueryCanceled:
                log.info("recall_not_sampled", **index, longer_than=RECALL_TIMEOUT)
                continue
            if found is not None and found["recall"] is not None:
                metrics.RECALL.labels(index["space"], index["modality"]).set(found["recall"])

    def _forget(self) -> None:
        metrics.LEADS.set(0)
        metrics.RECALL.clear()
        for gauge in metrics.OF_QUEUES:
            gauge.clear()
