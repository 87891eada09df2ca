"""Keeps embeddings in step with the tables that users watch: their marks become jobs."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from workers.database import Pool
from workers.loop import Loop
from workers.queries import query

log = structlog.get_logger(__name__)

LOOK_SECONDS = 0.5
"""Between two looks for marks: changes of this time become one job."""
STEPS = 20
"""Of 1,000 rows, in one turn."""


class Watches:
    """Drains the marks of watched tables, a step at a time.

    Args:
        pool: of connections.
        leads: whether this worker leads; two that both think so do each step once.
    """

    def __init__(self, pool: Pool, leads: Callable[[], bool]) -> None:
        self._pool = pool
        self._leads = leads
        self._loop = Loop("watches", self._turn, LOOK_SECONDS)

    def start(self) -> None:
        """Start the thread."""
        self._loop.start()

    def stop(self, seconds: float) -> None:
        """End the thread after the step in hand, which is one transaction."""
        self._loop.stop(seconds)

    def _turn(self) -> None:
        for _ in range(STEPS):
            if not self._leads():
                return
            with self._pool.connection() as connection:
                row = connection.execute(query("drain_watch")).fetchone()
            if not row or not row["drain_watch"]:
                return
            log.debug("watch_drained", rows=row["drain_watch"])
