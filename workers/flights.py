"""One encoding of one content at a time: whoever asks for the same digest meanwhile waits for the first.

Within one process. Two processes may encode one digest at the same moment; both vectors are right and each is stored
for its own item, so nothing but time is lost.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Hashable, Iterator
from concurrent.futures import Future

from workers.errors import EngineUnavailable
from workers.metrics import JOINED
from workers.vector import Vector


class Flights:
    """The encodings under way in this process.

    Args:
        by: who joins them, for the metrics: "job" or "call".
    """

    def __init__(self, by: str) -> None:
        self._joined = JOINED.labels(by)
        self._lock = threading.Lock()
        self._under_way: dict[Hashable, Future[Vector]] = {}

    @contextlib.contextmanager
    def boarding(self) -> Iterator[Boarding]:
        """For one message's work, commit included: whoever comes later finds the vectors in the database."""
        boarding = Boarding(self)
        try:
            yield boarding
        finally:
            boarding.leave()

    def join(self, key: Hashable) -> tuple[Future[Vector], bool]:
        """The future of this key, and whether the caller is the first and has to settle it."""
        with self._lock:
            found = self._under_way.get(key)
            if found is not None:
                self._joined.inc()
                return found, False
            return self._under_way.setdefault(key, Future()), True

    def end(self, key: Hashable) -> None:
        """Forget a key."""
        with self._lock:
            self._under_way.pop(key, None)


class Boarding:
    """The flights that one message takes part in."""

    def __init__(self, flights: Flights) -> None:
        self._flights = flights
        self._mine: dict[Hashable, Future[Vector]] = {}

    def join(self, key: Hashable) -> tuple[Future[Vector], bool]:
        """The future of this key, and whether the caller has to settle it."""
        future, first = self._flights.join(key)
        if first:
            self._mine[key] = future
        return future, first

    def leave(self) -> None:
        """Free the keys; a future that was not settled fails, so that nobody waits for ever."""
        for key, future in self._mine.items():
            self._flights.end(key)
            if not future.done():
                with contextlib.suppress(Exception):  # settled in between
                    future.set_exception(EngineUnavailable("the encoding was given up; it will be tried again"))
