"""Works on claimed chunks in a few threads, so that Celery's threads only hand over and calls always find one free."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import structlog

from workers.ledger import ClaimedChunk, Ledger
from workers.outage import is_outage
from workers.spaces import SpaceRefused

log = structlog.get_logger(__name__)

AHEAD = 1
"""Messages that are claimed before a thread is free for them."""
HAND_OVER_SECONDS = 2.0
"""How long a hand-over may wait for room before the chunks go back to the ledger."""
CLAIM_SECONDS = 1.0
"""How long a stopping worker waits for the answer to a claim."""
WAITERS = 2
"""Hand-overs that may wait at a time: as many as Celery has threads beyond the call slots."""

Work = Callable[[Sequence[ClaimedChunk]], object]
"""Does and persists the chunks of one message."""


@dataclass(frozen=True, slots=True)
class _Message:
    work: Work
    chunks: list[ClaimedChunk]


class ChunkRunner:
    """Takes messages up to its capacity, `slots` running and one ahead.

    Args:
        ledger: to claim, release and fail chunks.
        slots: threads.
    """

    def __init__(self, ledger: Ledger, slots: int) -> None:
        self.slots = slots
        self._ledger = ledger
        self._room = threading.Semaphore(slots + AHEAD)
        self._waiters = threading.Semaphore(WAITERS)
        self._waiting: queue.SimpleQueue[_Message | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._held: Counter[int] = Counter()  # two deliveries of one chunk may both be trying to claim it
        self._running = 0
        self._claiming = 0
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, name=f"chunks-{n}", daemon=True) for n in range(slots)]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    @property
    def free_slots(self) -> int:
        """Threads without a message."""
        return max(0, self.slots - self._running)

    @property
    def in_flight(self) -> int:
        """Chunks in hand, claimed or about to be."""
        return len(self._held)

    def take(self, work: Work, chunk_ids: Sequence[int]) -> bool:
        """Claim chunks and queue them; without room they go back to the ledger. Returns whether anything was claimed.

        Raises:
            psycopg.Error: the ledger did not answer. A claim whose answer was lost is found by `release_strays`.
        """
        if not self._reserve():
            self._ledger.release(chunk_ids)
            return False
        queued = False
        trying = set(chunk_ids)
        with self._lock:
            stopping = self._stopping.is_set()
            if not stopping:
                self._held.update(trying)
                self._claiming += 1
        if stopping:
            self._room.release()
            self._ledger.release(chunk_ids)
            return False
        try:
            chunks = self._ledger.claim(chunk_ids)
            if chunks:
                trying -= {chunk.chunk_id for chunk in chunks}
                self._waiting.put(_Message(work, chunks))
                queued = True
        finally:
            with self._lock:
                self._claiming -= 1
            self._let_go(trying)
            if not queued:
                self._room.release()
        return queued

    def release_strays(self) -> None:
        """Hand back chunks that the ledger says are ours though nobody here works on them. Raises psycopg.Error."""
        running = self._ledger.running()
        with self._lock:
            strays = running - set(self._held)
        if strays:
            log.warning("strays_released", chunks=sorted(strays))
            self._ledger.release(sorted(strays))

    def stop_taking(self) -> None:
        """Take no more; what is claimed and not begun goes back."""
        with self._lock:
            self._stopping.set()
        while True:
            try:
                message = self._waiting.get_nowait()
            except queue.Empty:
                break
            if message is not None:
                ids = [chunk.chunk_id for chunk in message.chunks]
                if self._give_back(ids):
                    self._let_go(ids)
        for _ in self._threads:
            self._waiting.put(None)

    def drain(self, seconds: float) -> bool:
        """Wait for the messages that run; returns whether all ended in time."""
        deadline = time.monotonic() + seconds
        started = [thread for thread in self._threads if thread.ident is not None]
        for thread in started:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in started)

    def release_all(self) -> bool:
        """Hand back whatever is still in hand; its writes find their fence gone. Returns whether the ledger took it."""
        deadline = time.monotonic() + CLAIM_SECONDS
        while self._claiming and time.monotonic() < deadline:
            time.sleep(0.01)  # a claim under way would take the chunks again right after this
        with self._lock:
            held = sorted(self._held)
        if held:
            log.warning("running_chunks_released", chunks=held)
        return not held or self._give_back(held)

    def _reserve(self) -> bool:
        if self._stopping.is_set():
            return False
        if self._room.acquire(blocking=False):
            return True
        if not self._waiters.acquire(blocking=False):
            return False
        try:
            deadline = time.monotonic() + HAND_OVER_SECONDS
            while not self._stopping.is_set() and time.monotonic() < deadline:
                if self._room.acquire(timeout=0.1):
                    return True
            return False
        finally:
            self._waiters.release()

    def _let_go(self, chunk_ids: Iterable[int]) -> None:
        with self._lock:
            self._held.subtract(chunk_ids)
            self._held = +self._held

    def _run(self) -> None:
        while (message := self._waiting.get()) is not None:
            with self._lock:
                self._running += 1
            try:
                if self._stopping.is_set():
                    self._give_back([chunk.chunk_id for chunk in message.chunks])
                else:
                    message.work(message.chunks)
            except BaseException as error:
                log.exception("message_failed", chunks=[chunk.chunk_id for chunk in message.chunks])
                if is_outage(error) or isinstance(error, SpaceRefused):
                    self._give_back([chunk.chunk_id for chunk in message.chunks])
                else:
                    self._fail(message.chunks, error)
            finally:
                with self._lock:
                    self._running -= 1
                self._let_go(chunk.chunk_id for chunk in message.chunks)
                self._room.release()

    def _fail(self, chunks: Sequence[ClaimedChunk], error: BaseException) -> None:
        for chunk in chunks:
            try:
                became = self._ledger.fail(chunk, type(error).__name__, str(error) or type(error).__name__)
                log.warning("chunk_failed", chunk_id=chunk.chunk_id, attempt=chunk.attempt + 1, became=became)
                self._ledger.close_jobs([chunk])
            except Exception as again:  # noqa: BLE001 - `release_strays` finds it once the ledger answers
                log.warning("chunk_not_given_up", chunk_id=chunk.chunk_id, error=str(again).strip())

    def _give_back(self, chunk_ids: Sequence[int]) -> bool:
        try:
            self._ledger.release(chunk_ids)
        except Exception as error:  # noqa: BLE001 - `release_strays` does it later, or the lease ends by itself
            log.warning("chunks_not_released", chunks=list(chunk_ids), error=str(error).strip())
            return False
        return True
