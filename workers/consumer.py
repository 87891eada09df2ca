"""Runs Celery's consumer in a thread of ours, and starts it again when it ends."""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import Any

import structlog
from celery import Celery
from celery.app import trace
from celery.worker import WorkController, state

from sightline.broker import SUBMIT_QUEUE
from workers.app import consumed

log = structlog.get_logger(__name__)

LONGEST_PAUSE = 5.0
"""Seconds between two starts of a consumer that keeps ending."""


class Consumer:
    """Celery without its command: no signal handlers, no process title, no logging of its own.

    Celery ends its worker on some malformed messages and on errors of Redis that it takes for final; then a new one is
    started in the same process, so that the models stay loaded.

    Args:
        app: the application.
        queues: of the ledger.
    """

    def __init__(self, app: Celery, queues: list[str]) -> None:
        self._app = app
        self._queues = queues
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._holding = False
        self._worker: WorkController | None = None
        self._thread = threading.Thread(target=self._run, name="celery", daemon=True)

    def start(self, seconds: float) -> bool:
        """Start consuming; returns whether it did within `seconds`."""
        state.should_stop = None
        self._thread.start()
        return self._ready.wait(seconds)

    def hold(self) -> bool:
        """Take calls alone until `go_on`: other workers may reach the ledger. Returns whether this is news."""
        return self._set_holding(True)

    def go_on(self) -> bool:
        """Take everything again. Returns whether this is news."""
        return self._set_holding(False)

    def stop_taking(self) -> None:
        """Ask it to end: what it holds unbegun goes back to Redis, what runs is finished."""
        self._stopping.set()
        state.should_stop = 0

    def join(self, seconds: float) -> bool:
        """Wait until it has ended; returns whether it did within `seconds`."""
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def _set_holding(self, holding: bool) -> bool:
        if self._holding == holding:
            return False
        self._holding = holding
        consumer = self._worker and self._worker.consumer
        if consumer is not None:
            consumer.call_soon(self._follow, consumer)
        return True

    def _follow(self, consumer: Any) -> None:
        """Consume what is wanted now. Runs in Celery's own thread, which alone may touch its queues."""
        selected, connected = self._app.amqp.queues, consumer.task_consumer
        for queue in (SUBMIT_QUEUE, *self._queues):
            if not self._holding:
                # Also while Redis is away: the next connection consumes what is selected.
                chosen = selected.select_add(selected[queue])
                if connected is not None and not connected.consuming_from(queue):
                    connected.add_queue(chosen)
                    connected.consume()
            else:
                selected.deselect(queue)
                if connected is not None:
                    connected.cancel_by_queue(queue)

    def _on_ready(self, consumer: Any) -> None:
        if self._holding:  # a new consumer starts with all queues
            self._follow(consumer)
        self._ready.set()

    def troubles(self) -> list[str]:
        """Why no message is taken right now, in words."""
        if self._stopping.is_set():
            return ["it is stopping"]
        if not self._thread.is_alive():
            return ["its thread is not running"]
        consumer = getattr(self._worker, "consumer", None)  # Celery has none before it first connects
        connection = getattr(consumer, "connection", None)
        return [] if connection is not None and connection.connected else ["it is not connected to Redis"]

    def _run(self) -> None:
        hostname = f"sightline-{os.getpid()}@{socket.gethostname()}"
        trace.setup_worker_optimizations(
            self._app, hostname
        )  # else tasks are looked for in an app that Celery makes up
        pause = 0.1
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self._worker = worker = WorkController(
                    app=self._app, hostname=hostname, pool="threads",
                    queues=consumed(self._queues), without_gossip=True, without_mingle=True, without_heartbeat=True,
                    ready_callback=self._on_ready, quiet=True,
                )  # fmt: skip
                worker.start()
            except BaseException:
                log.exception("consumer_failed")
            if self._stopping.is_set():
                return
            pause = 0.1 if time.monotonic() - began > 60 else min(LONGEST_PAUSE, pause * 2)
            log.error("consumer_ended", again_in=pause)
            self._stopping.wait(pause)
