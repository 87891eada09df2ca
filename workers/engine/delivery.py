"""Results on their way to whoever waits for them: handed out by another thread than the one that runs the forward."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workers.engine.entry import Entry, fail, hand_out

UNDELIVERED = 4
"""Batches that may wait to be handed out; then the forward waits."""


@dataclass(frozen=True, slots=True)
class _Results:
    entries: Sequence[Entry]
    results: Sequence[Any]
    counted: bool


class Delivery:
    """A short queue of results. `turn` is called by one thread, everything else by any."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[_Results | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(UNDELIVERED)
        self._in_hand: Sequence[Entry] = ()

    def put(self, entries: Sequence[Entry], results: Sequence[Any], *, wait: bool = True) -> None:
        """Have results handed out.

        Args:
            entries: who waits.
            results: one each; an exception is the error of that item.
            wait: for room; else at once, for what holds a lock.
        """
        if wait:
            self._room.acquire()
        self._queue.put(_Results(entries, results, wait))

    def turn(self) -> bool:
        """Hand out one batch; False once the queue was closed."""
        taken = self._queue.get()
        if taken is None:
            return False
        self._in_hand = taken.entries
        try:
            hand_out(taken.entries, taken.results)
        finally:
            if taken.counted:
                self._room.release()
        self._in_hand = ()
        return True

    def lost(self, error: Exception) -> None:
        """Fail what was in hand when a turn died."""
        lost, self._in_hand = self._in_hand, ()
        fail(lost, error)

    def close(self) -> None:
        """End the turns once everything was handed out."""
        self._queue.put(None)
