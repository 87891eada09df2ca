"""The worker's row: while it is fresh, the chunks that this worker claimed are its own."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
import structlog
from psycopg.types.json import Jsonb

from sightline import __version__
from workers.database import Connection, connect
from workers.loop import Loop
from workers.queries import query

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class WorkerState:
    """What the row says. `queues` stays empty until the worker consumes, and again once it stops."""

    worker_id: uuid.UUID
    slots: int
    free_slots: Callable[[], int]
    models: Callable[[], list[dict[str, Any]]]
    paces: Callable[[], dict[str, float]] = dict
    queues: Sequence[str] = ()
    name: str = field(default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}")


class Heartbeat:
    """Writes the row every fifth of a lease, over a connection of its own.

    Args:
        database_url: of Postgres.
        state: what to write.
        lease_seconds: after so long without a beat others take the chunks.
        on_beat: called with each beat's answer: all running chunks of this worker whose job was cancelled.
    """

    def __init__(
        self,
        database_url: str,
        state: WorkerState,
        lease_seconds: float,
        on_beat: Callable[[Sequence[int]], None],
    ) -> None:
        self._url = database_url
        self._state = state
        self._on_beat = on_beat
        self._lease = lease_seconds
        self._connection: Connection | None = None
        self._last = time.monotonic()
        self._trouble: str | None = None
        # After an outage the beat must be back before the sweepers, who wait one lease.
        self._loop = Loop("heartbeat", self._beat, lease_seconds / 5, longest=lease_seconds / 5)

    def troubles(self) -> list[str]:
        """Why others may think that this worker is gone, in words."""
        silent = time.monotonic() - self._last
        if self._trouble is not None:
            return [f"Postgres takes no heartbeat: {self._trouble}"]
        return [f"no heartbeat for {silent:.0f} s"] if silent > self._lease else []

    def start(self) -> None:
        """Write the row once, then keep it fresh. Raises psycopg.OperationalError if the first beat fails."""
        self._write()
        self._loop.start()

    @property
    def missed(self) -> bool:
        """Whether two beats in a row did not get through: the ledger is likely out of reach."""
        return time.monotonic() - self._last > self._lease / 2

    def announce(self, queues: Sequence[str]) -> None:
        """Say which queues are consumed; the dispatcher publishes for them. No queues: nothing more is wanted."""
        self._state.queues = tuple(queues)
        try:
            with connect(self._url) as connection:
                connection.execute(query("beat"), self._row())
        except psycopg.Error as error:
            log.warning("not_announced", error=str(error).strip(), then="the next beat does")

    def stop(self) -> None:
        """Mark the worker as stopped."""
        if self._loop.stop(2.0) and self._connection is not None:
            self._connection.close()
        try:
            with connect(self._url) as connection:
                connection.execute(query("worker_stopped"), {"worker_id": self._state.worker_id})
        except psycopg.Error as error:
            log.warning("stop_not_noted", error=str(error).strip())

    def _beat(self) -> None:
        silent = time.monotonic() - self._last
        try:
            self._write()
        except BaseException as error:
            self._trouble = str(error).strip() or type(error).__name__
            if self._connection is not None:
                self._connection.close()
            self._connection = None
            raise
        if silent > self._lease:
            log.warning(
                "lease_lost", silent_seconds=round(silent, 1), then="others may have taken the chunks; fences guard"
            )

    def _write(self) -> None:
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._url)
        row = self._connection.execute(query("beat"), self._row()).fetchone()
        self._last, self._trouble = time.monotonic(), None
        if row is not None:
            self._on_beat(row["cancelled"])

    def _row(self) -> dict[str, Any]:
        state = self._state
        return {
            "worker_id": state.worker_id,
            "name": state.name,
            "pid": os.getpid(),
            "slots": state.slots,
            "free_slots": state.free_slots() if state.queues else 0,
            "queues": list(state.queues),
            "models": Jsonb(state.models()),
            "paces": Jsonb(state.paces()),
            "version": __version__,
        }
