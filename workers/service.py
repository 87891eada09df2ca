"""One worker process: puts the parts together, starts them in order and stops them in order."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import psycopg
import structlog

from sightline.broker import CHUNKS_TASK, Broker
from sightline.contracts.fields import Contract
from sightline.errors import ContractViolated
from sightline.settings import Settings
from sightline.signals import StopSignals, stop_signals
from workers import metrics
from workers.app import make_app
from workers.calls import Calls
from workers.cancellations import Cancellations
from workers.caption import CaptionWork
from workers.captioning import CaptionTools
from workers.consumer import Consumer
from workers.contents import Contents
from workers.database import open_pool
from workers.decoders import Decoders
from workers.dispatcher import Dispatcher
from workers.encode import EncodeWork
from workers.endpoint import Endpoint
from workers.endpoints import open_reranker
from workers.flights import Flights
from workers.golden import CHECK_SECONDS
from workers.heartbeat import Heartbeat, WorkerState
from workers.ingress import Ingress
from workers.intake import Intake
from workers.ledger import ClaimedChunk, Ledger
from workers.load import Load
from workers.loop import Loop
from workers.outage import is_outage
from workers.paces import Paces
from workers.preflight import service_urls
from workers.query_texts import QueryTexts
from workers.questions import Questions
from workers.readiness import Readiness
from workers.rerank_calls import RerankCalls
from workers.rerank_work import RerankWork
from workers.reranker import Reranker
from workers.runner import WAITERS, ChunkRunner
from workers.scorers import Scorers
from workers.spaces import Served, Spaces
from workers.subjects import Subjects
from workers.watches import Watches
from workers.writer import Writer

log = structlog.get_logger(__name__)

MAX_DECODERS = 8
LOADING_SECONDS = 1.0
"""How long chunks are put off whose model is being loaded."""
STUCK_SECONDS = 300.0
"""A batch that takes longer never ends: the process does, for whoever supervises it to start it again."""
MAX_HUNG = 32
"""Threads that hang in items which were given up; the process then makes room for another one."""
BROKEN_EXIT_CODE = 5
"""Work was left to its lease: the process could not hand it back."""
EXIT_GRACE = 3.0
"""Seconds after the drain in which everything else must have ended."""


class Service:
    """A worker that consumes `queues`.

    Args:
        settings: see `workers.preflight.check_services`, which comes first.
        queues: of the ledger: `<kind>`, or `<kind>.<pool>`.
    """

    def __init__(self, settings: Settings, queues: list[str]) -> None:
        database_url, redis_url = service_urls(settings)
        self._settings = settings
        self._queues = queues
        self.worker_id = uuid.uuid4()
        self._broker = Broker(redis_url, settings.key_prefix)
        self._pool = open_pool(database_url, settings.chunk_slots + settings.call_slots + WAITERS + 5)
        ingress = Ingress.of(settings)
        ledger = Ledger(self._pool, self.worker_id)
        decoders = Decoders(min(MAX_DECODERS, os.cpu_count() or 1), settings.item_seconds)
        fetchers = Decoders(settings.fetch_threads, settings.item_seconds)
        self._ledger = ledger
        self._decoders = decoders
        self._fetchers = fetchers
        self._give_up = threading.Event()
        self._spaces = Spaces(self._pool, queues, settings.device)
        self._cancellations = cancellations = Cancellations()
        writer = Writer(self._pool, ledger, self._give_up)
        contents = Contents(self._pool, ingress)
        work = EncodeWork(self._pool, ingress, writer, Flights("job"), decoders, cancellations, fetchers)
        self._caption_tools = CaptionTools(settings)
        captions = CaptionWork(
            self._pool, ledger, writer, Subjects(self._pool, contents, decoders), self._caption_tools, cancellations
        )
        self._works: dict[str, Callable[[Any, Served, Sequence[ClaimedChunk]], object]] = {
            "encode": lambda _, served, chunks: work.run(served, chunks),
            "caption": captions.run,
        }
        self._paces = Paces()
        self._runner = ChunkRunner(ledger, settings.chunk_slots)
        metrics.IN_FLIGHT.set_function(lambda: self._runner.in_flight)
        texts = QueryTexts()
        self._scorers = Scorers(settings.scorers, settings.device, partial(open_reranker, settings))
        reranker = Reranker(self._pool, self._spaces, contents, decoders, texts)
        self._works["rerank"] = RerankWork(reranker, self._scorers, writer, cancellations).run
        rerank = RerankCalls(reranker, self._scorers)
        self._calls = Calls(self._broker, self._spaces, ingress, rerank, texts, settings.call_slots)
        state = WorkerState(
            self.worker_id,
            settings.chunk_slots,
            lambda: self._runner.free_slots,
            self._spaces.describe,
            self._paces.describe,
        )
        self._heartbeat = Heartbeat(database_url, state, settings.lease_seconds, self._on_beat)
        self._watch = Loop("watch", self._look_after, settings.lease_seconds / 5)
        self._golden = Loop("golden", self._check_golden, CHECK_SECONDS)
        self._dispatcher = Dispatcher(
            database_url, self._broker, self.worker_id, settings.lease_seconds, settings.poll_seconds,
            settings.keep_jobs_days,
        )  # fmt: skip
        self._watches = Watches(self._pool, lambda: self._dispatcher.leads)
        self._questions = Questions(self._pool, self._broker, lambda: self._dispatcher.leads)
        self._load = Load(self._pool, lambda: self._dispatcher.leads)
        self._intake = Intake(self._pool)
        self._app = make_app(
            settings, redis_url, queues, self._on_chunks, self._calls.answer, self._on_submit, self._on_refused
        )
        self._consumer = Consumer(self._app, queues)
        self._loaded_at = float("-inf")
        self._phase: str | None = "it loads its models"
        readiness = Readiness({
            "worker": lambda: [self._phase] if self._phase else [], "postgres": self._heartbeat.troubles,
            "redis": self._ask_redis, "consumer": self._consumer.troubles, "spaces": self._space_troubles,
        })  # fmt: skip
        self._endpoint: Endpoint | None = None
        if settings.metrics_port is not None:
            self._endpoint = Endpoint(settings.metrics_host, settings.metrics_port, readiness)
        self._stopped = threading.Event()
        self._exit_code = BROKEN_EXIT_CODE  # until everything was handed back

    def run(self) -> int:
        """Work until SIGTERM or SIGINT; returns the exit code. Call it in the main thread."""
        with stop_signals() as stop:
            threading.Thread(target=self._leave_at_once, args=(stop.again,), name="leave", daemon=True).start()
            self.start(stop)
            while not stop.wait(1.0):
                pass
            return self.stop()

    def start(self, stop: StopSignals | None = None) -> None:
        """Load the models, then take work; returns early once `stop` is set."""
        began = time.monotonic()
        self._heartbeat.start()
        loading = self._spaces.load_all()
        while not all(future.done() for future in loading):
            time.sleep(0.05)
            if stop is not None and stop.is_set():
                return
        self._loaded_at = time.monotonic()
        self._runner.start()
        self._watch.start()
        self._golden.start()
        self._dispatcher.start()
        self._watches.start()
        self._questions.start()
        self._load.start()
        if not self._consumer.start(30.0):
            log.warning("consumer_not_ready_yet")
        self._heartbeat.announce(self._queues)
        self._phase = None
        log.info("worker_ready", worker_id=str(self.worker_id), queues=self._queues, spaces=self._spaces.describe(),
                 seconds=round(time.monotonic() - began, 2))  # fmt: skip

    def stop(self) -> int:
        """Finish what was begun, within `drain_seconds`, hand back the rest, and close everything; the exit code."""
        began = time.monotonic()
        threading.Thread(target=self._watch_exit, name="watchdog", daemon=True).start()
        self._phase = "it is stopping"
        log.info("worker_stopping", drain_seconds=self._settings.drain_seconds)
        self._consumer.stop_taking()
        self._runner.stop_taking()
        self._heartbeat.announce([])
        self._questions.stop(1.0)
        self._load.stop(1.0)
        self._watches.stop(1.0)
        self._dispatcher.stop()
        self._watch.stop(1.0)
        self._golden.stop(0.0)
        drained = self._runner.drain(self._settings.drain_seconds - (time.monotonic() - began))
        self._give_up.set()
        if self._runner.release_all():
            self._exit_code = 0
        self._consumer.join(max(1.5, self._settings.drain_seconds - (time.monotonic() - began)))
        self._heartbeat.stop()
        self._close()
        self._stopped.set()
        log.info("worker_stopped", drained=drained, seconds=round(time.monotonic() - began, 2))
        return self._exit_code

    def _close(self) -> None:
        """Free threads and sockets; the process may live on."""
        if self._endpoint is not None:
            self._endpoint.close()
        self._calls.close()
        self._spaces.close()
        self._scorers.close()
        self._decoders.close()
        self._fetchers.close()
        self._app.close()
        self._pool.close(1.0)
        self._broker.close()

    def _on_beat(self, cancelled: Sequence[int]) -> None:
        """The ledger answers."""
        self._cancellations.update(cancelled)
        if self._consumer.go_on():
            log.info("work_taken_again")

    def _on_submit(self, message_id: str, arguments: Sequence[Any], request: dict[str, Any]) -> None:
        self._or_hold(lambda: self._intake.submit(message_id, arguments, request))

    def _on_refused(self, message_id: str, request: str, reason: str) -> None:
        self._or_hold(lambda: self._intake.refuse(message_id, request, reason))

    def _or_hold(self, body: Callable[[], object]) -> None:
        try:
            body()
        except BaseException as error:
            if is_outage(error):
                self._hold(error)
            raise

    def _on_chunks(self, queue: str, chunk_ids: list[int]) -> None:
        """Hand a message over to the runner. Without the ledger it goes back at once, for a worker that has one."""
        try:
            if self._heartbeat.missed:
                raise psycopg.OperationalError("the heartbeat gets no answer")
            self._hand_over(chunk_ids)
        except BaseException as error:
            if not is_outage(error):
                raise
            self._hold(error)
            self._broker.push(queue, CHUNKS_TASK, [{"chunk_ids": chunk_ids}])  # what was claimed is not found again

    def _hold(self, error: BaseException) -> None:
        """Leave the messages to workers that reach the ledger, until a beat gets through."""
        if self._consumer.hold():
            log.warning("work_left_to_others", reason=f"Postgres cannot be reached: {error}".strip())

    def _hand_over(self, chunk_ids: list[int]) -> None:
        together: dict[tuple[str, int, str], tuple[Contract, list[int]]] = {}
        for waiting in self._ledger.waiting(chunk_ids):
            try:
                payload = waiting.checked()
            except ContractViolated as error:
                log.warning("chunks_refused", chunks=waiting.chunk_ids, reason=str(error))
                self._ledger.refuse(waiting.chunk_ids, "ContractViolated", str(error))
                continue
            # All that an encode job says is its space, however it spells that.
            key = waiting.kind, waiting.space_id or 0, "" if waiting.kind == "encode" else waiting.payload
            together.setdefault(key, (payload, []))[1].extend(waiting.chunk_ids)
        for (kind, space_id, _), (payload, ids) in together.items():
            loading = self._spaces.get(space_id)
            if not loading.done():
                self._ledger.postpone(ids, LOADING_SECONDS)
            elif loading.exception() is not None:
                # Left unclaimed: it is published again after a while, and by then another worker may take it.
                log.warning("chunks_left", chunks=ids, reason=str(loading.exception()))
            else:
                work = self._paces.timed(kind, partial(self._works[kind], payload))
                self._runner.take(partial(work, loading.result()), ids)

    def _check_golden(self) -> None:
        if time.monotonic() - self._loaded_at > CHECK_SECONDS / 2:  # they were looked at when the models were loaded
            self._spaces.check()

    def _ask_redis(self) -> list[str]:
        self._broker.now()
        return []

    def _space_troubles(self) -> list[str]:
        spaces = self._spaces.describe()
        if any(space["state"] == "ready" for space in spaces):
            return self._spaces.troubles() + self._scorers.troubles()
        seen = [f"{space['space']} is {space['state']}: {space['detail']}" for space in spaces]
        return [*self._spaces.troubles(), "no space is ready: " + ("; ".join(seen) or "there is none")]

    def _look_after(self) -> None:
        busy = (self._spaces.busy_seconds, self._scorers.busy_seconds, self._caption_tools.busy_seconds)
        busy_seconds = max(busy)
        hung = self._decoders.hung + self._fetchers.hung
        if busy_seconds > STUCK_SECONDS or hung >= MAX_HUNG:
            # Neither a forward nor a read can be interrupted, and a worker behind them would hold its chunks for ever.
            log.critical("worker_exits_stuck", forward_seconds=round(busy_seconds),
                         hung_reads=hung)  # fmt: skip
            threading.Timer(EXIT_GRACE, os._exit, [BROKEN_EXIT_CODE]).start()
            self._runner.release_all()
            os._exit(BROKEN_EXIT_CODE)
        self._runner.release_strays()

    def _leave_at_once(self, asked: threading.Event) -> None:
        asked.wait()
        log.warning("worker_leaves_at_once")
        threading.Timer(EXIT_GRACE, os._exit, [BROKEN_EXIT_CODE]).start()
        self._runner.stop_taking()
        released = self._runner.release_all()
        self._heartbeat.stop()
        os._exit(0 if released else BROKEN_EXIT_CODE)

    def _watch_exit(self) -> None:
        """Nothing that hangs may keep the process: its leases end by themselves."""
        if not self._stopped.wait(self._settings.drain_seconds + EXIT_GRACE):
            log.error("worker_exits_by_watchdog", exit_code=self._exit_code)
            os._exit(self._exit_code)
