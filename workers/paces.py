"""How long an item takes this worker, by kind of work: what turns a backlog of items into seconds."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from workers.ledger import ClaimedChunk

S = TypeVar("S")

ENOUGH = 16
"""Items before a pace is told."""
MEMORY_SECONDS = 300.0
"""Of work; what is older counts half."""


@dataclass(slots=True)
class _Pace:
    active: int = 0
    since: float = 0.0  # of time.monotonic(): up to here the time is counted
    seconds: float = 0.0
    items: float = 0.0


class Paces:
    """Seconds of this worker for an item, over the time in which it had such work at all. Safe in threads.

    Messages that are worked on at once share the time: it is what the queue gets from one worker, not what one message
    takes.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._paces: dict[str, _Pace] = {}

    def timed(
        self, kind: str, work: Callable[[S, Sequence[ClaimedChunk]], Any]
    ) -> Callable[[S, Sequence[ClaimedChunk]], Any]:
        """`work`, whose messages are measured as `<kind>/<space_id>`.

        What it did is the Counter that it returns, for some of it may have gone back to the ledger; without one it is
        all of it. One that raises counts for nothing.
        """

        def run(served: S, chunks: Sequence[ClaimedChunk]) -> Any:
            key = f"{kind}/{chunks[0].space_id or 0}"
            self._begin(key)
            done = 0
            try:
                result = work(served, chunks)
                done = result.total() if isinstance(result, Counter) else sum(len(chunk.item_ids) for chunk in chunks)
                return result
            finally:
                self._end(key, done)

        return run

    def describe(self) -> dict[str, float]:
        """Seconds for an item, by kind and space."""
        with self._lock:
            return {key: round(p.seconds / p.items, 6) for key, p in self._paces.items() if p.items >= ENOUGH}

    def _begin(self, key: str) -> None:
        with self._lock:
            pace = self._paces.setdefault(key, _Pace())
            if pace.active == 0:
                pace.since = self._clock()
            pace.active += 1

    def _end(self, key: str, items: int) -> None:
        with self._lock:
            pace = self._paces[key]
            pace.active -= 1
            now = self._clock()
            if items:
                pace.seconds += now - pace.since
                pace.items += items
            pace.since = now
            if pace.seconds > MEMORY_SECONDS:
                pace.seconds, pace.items = pace.seconds / 2, pace.items / 2
