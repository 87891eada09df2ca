"""Which chunks in this worker's hands were cancelled; their encoding ends at the next batch."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from workers.errors import ItemError


class Cancelled(ItemError):
    """The job was cancelled before the item's turn came: it counts as cancelled. Another job that waited for the same
    content tries again."""

    retryable = True


class Cancellations:
    """The cancelled chunks, as the last heartbeat brought them, and the encodings that wait for their batch.

    Safe in threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chunks: frozenset[int] = frozenset()
        self._waiting: dict[Future[Any], set[int]] = {}

    def update(self, chunk_ids: Sequence[int]) -> None:
        """Take note of all chunks in hand that are cancelled; drop what was queued for them alone."""
        with self._lock:
            self._chunks = frozenset(chunk_ids)
            dropped = [future for future, wanted_by in self._waiting.items() if wanted_by <= self._chunks]
        for future in dropped:
            future.cancel()  # refused by one that runs already: that is the batch border

    @property
    def chunks(self) -> frozenset[int]:
        """Ids of the cancelled chunks in hand."""
        return self._chunks

    @contextmanager
    def watching(self) -> Iterator[Watch]:
        """For one message's encodings; they are forgotten at the end."""
        watch = Watch(self)
        try:
            yield watch
        finally:
            with self._lock:
                for future in watch.futures:
                    self._waiting.pop(future, None)

    def _add(self, future: Future[Any], wanted_by: set[int]) -> None:
        with self._lock:
            self._waiting[future] = wanted_by
            cancelled = wanted_by <= self._chunks
        if cancelled:
            future.cancel()


class Watch:
    """The encodings of one message."""

    def __init__(self, cancellations: Cancellations) -> None:
        self.futures: list[Future[Any]] = []
        self._cancellations = cancellations

    def add(self, future: Future[Any], wanted_by: set[int]) -> None:
        """Have an encoding cancelled once all the chunks that want it are."""
        self.futures.append(future)
        self._cancellations._add(future, wanted_by)
