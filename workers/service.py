"""One worker process: puts the parts together, starts them in order and stops them in order."""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import structlog

from sightline.broker import Broker
from sightline.settings import Settings
from workers.app import make_app
from workers.calls import Calls
from workers.cancellations import Cancellations
from workers.consumer import Consumer
from workers.database import open_pool
from workers.dispatcher import Dispatcher
from workers.encode import EncodeWork
from workers.flights import Flights
from workers.heartbeat import Heartbeat, WorkerState
from workers.ingress import Ingress
from workers.ledger import Ledger
from workers.loop import Loop
from workers.preflight import service_urls
from workers.runner import WAITERS, ChunkRunner
from workers.spaces import Spaces
from workers.writer import Writer

log = structlog.get_logger(__name__)

MAX_DECODERS = 8
LOADING_SECONDS = 1.0
"""How long chunks are put off whose model is being loaded."""
STUCK_SECONDS = 300.0
"""A batch that takes longer never ends: the process does, for whoever supervises it to start it again."""
STUCK_EXIT_CODE = 5
EXIT_GRACE = 3.0
"""Seconds after the drain in which everything else must have ended."""


class Service:
    """A worker that consumes `queues`.

    Args:
        settings: see `workers.preflight.check_services`, which comes first.
        queues: of the ledger: `encode`, or `encode.<pool>`.
    """

    def __init__(self, settings: Settings, queues: list[str]) -> None:
        database_url, redis_url = service_urls(settings)
        self._settings = settings
        self._queues = queues
        self.worker_id = uuid.uuid4()
        self._broker = Broker(redis_url, settings.key_prefix)
        self._pool = open_pool(database_url, settings.chunk_slots + settings.call_slots + WAITERS + 2)
        ingress = Ingress(settings.media_roots, settings.max_bytes, settings.max_pixels, settings.max_text_chars)
        ledger = Ledger(self._pool, self.worker_id)
        decoders = ThreadPoolExecutor(min(MAX_DECODERS, os.cpu_count() or 1), thread_name_prefix="decode")
        self._ledger = ledger
        self._spaces = Spaces(self._pool, queues, settings.device)
        cancellations = Cancellations()
        work = EncodeWork(self._pool, ingress, Writer(self._pool, ledger), Flights(), decoders, cancellations)
        self._runner = ChunkRunner(ledger, work.run, settings.chunk_slots)
        self._calls = Calls(self._broker, self._spaces, ingress)
        state = WorkerState(
            self.worker_id, settings.chunk_slots, lambda: self._runner.free_slots, self._spaces.describe
        )
        self._heartbeat = Heartbeat(database_url, state, settings.lease_seconds, cancellations.update)
        self._watch = Loop("watch", self._look_after, settings.lease_seconds / 5)
        self._dispatcher = Dispatcher(
            database_url, self._broker, self.worker_id, settings.lease_seconds, settings.poll_seconds,
            settings.keep_jobs_days,
        )  # fmt: skip
        self._consumer = Consumer(make_app(settings, redis_url, queues, self._on_chunks, self._calls.answer), queues)
        self._asked = threading.Event()
        self._signals = 0

    def run(self) -> int:
        """Work until SIGTERM or SIGINT; returns the exit code. Call it in the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self._start()
        while not self._asked.wait(1.0):
            pass
        return self._stop()

    def _start(self) -> None:
        began = time.monotonic()
        self._heartbeat.start()
        loading = self._spaces.load_all()
        while not all(future.done() for future in loading):
            if self._asked.wait(0.1):
                return
        self._runner.start()
        self._watch.start()
        self._dispatcher.start()
        if not self._consumer.start(30.0):
            log.warning("consumer_not_ready_yet")
        self._heartbeat.announce(self._queues)
        log.info("worker_ready", worker_id=str(self.worker_id), queues=self._queues, spaces=self._spaces.describe(),
                 seconds=round(time.monotonic() - began, 2))  # fmt: skip

    def _stop(self) -> int:
        began = time.monotonic()
        threading.Thread(target=self._watch_exit, name="watchdog", daemon=True).start()
        log.info("worker_stopping", drain_seconds=self._settings.drain_seconds)
        self._consumer.stop_taking()
        self._heartbeat.announce([])
        self._dispatcher.stop()
        self._watch.stop(1.0)
        self._runner.stop_taking()
        drained = self._runner.drain(self._settings.drain_seconds)
        self._runner.release_all()
        self._consumer.join(max(0.5, self._settings.drain_seconds - (time.monotonic() - began)))
        self._heartbeat.stop()
        self._spaces.close()
        log.info("worker_stopped", drained=drained, seconds=round(time.monotonic() - began, 2))
        return 0

    def _on_chunks(self, chunk_ids: list[int]) -> None:
        """Hand a message over to the runner, or leave it to another worker."""
        by_space: dict[int, list[int]] = defaultdict(list)
        for waiting in self._ledger.waiting(chunk_ids):
            if (problem := waiting.problem) is not None:
                log.warning("chunks_refused", chunks=waiting.chunk_ids, reason=problem)
                self._ledger.refuse(waiting.chunk_ids, "ContractViolated", problem)
            elif waiting.space_id is not None:
                by_space[waiting.space_id] += waiting.chunk_ids
        for space_id, ids in by_space.items():
            loading = self._spaces.get(space_id)
            if not loading.done():
                self._ledger.postpone(ids, LOADING_SECONDS)
            elif loading.exception() is not None:
                # Left unclaimed: it is published again after a while, and by then another worker may take it.
                log.warning("chunks_left", chunks=ids, reason=str(loading.exception()))
            else:
                self._runner.take(loading.result(), ids)

    def _look_after(self) -> None:
        if self._spaces.busy_seconds > STUCK_SECONDS:
            # A forward cannot be interrupted, and a worker behind it would hold its chunks for ever.
            log.critical("worker_exits_stuck", forward_seconds=round(self._spaces.busy_seconds))
            threading.Timer(EXIT_GRACE, os._exit, [STUCK_EXIT_CODE]).start()
            self._runner.release_all()
            os._exit(STUCK_EXIT_CODE)
        self._runner.release_strays()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1
        self._asked.set()
        if self._signals == 2:
            threading.Thread(target=self._leave_at_once, name="leave", daemon=True).start()

    def _leave_at_once(self) -> None:
        log.warning("worker_leaves_at_once")
        threading.Timer(EXIT_GRACE, os._exit, [0]).start()
        self._runner.release_all()
        self._heartbeat.stop()
        os._exit(0)

    def _watch_exit(self) -> None:
        """Nothing that hangs may keep the process: its leases end by themselves."""
        time.sleep(self._settings.drain_seconds + EXIT_GRACE)
        log.error("worker_exits_by_watchdog")
        os._exit(0)
