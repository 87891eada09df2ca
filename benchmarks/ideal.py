"""The ideal loop: what one process does with this work on this machine when nothing else is asked of it.

Two threads read and decode ahead of the forward, batches are of the size that runs fastest here, and the vectors go
into a table like sightline's partition in one COPY that stays open. No queue, no ledger, no check of the content.
"""

from __future__ import annotations

import io
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from pgvector import HalfVector
from pgvector.psycopg import register_vector
from PIL import Image

from models.encoder import Encoder

DECODERS = 2


def decode(encoder: Encoder, path: str | Path) -> np.ndarray:
    """A file to what the model takes."""
    with Image.open(io.BytesIO(Path(path).read_bytes())) as image:
        image.draft(None, encoder.decode_size(*image.size))
        return encoder.prepare_image(np.asarray(image.convert("RGB")))


class IdealLoop:
    """The loop for one kind of content. Its forward runs in a thread that does nothing else, as a worker's does.

    (In the main thread OpenMP waits by spinning, which costs more than it brings where other threads decode.)

    Args:
        prepare: one item to what `encode` takes; called in two threads.
        encode: prepared items to float32 (n, dim).
        database_url: where the vectors go.

    Attributes:
        batch: items of one forward.
    """

    def __init__(
        self, prepare: Callable[[Any], Any], encode: Callable[[Sequence[Any]], np.ndarray], database_url: str
    ) -> None:
        self.batch = 0
        self._prepare, self._encode = prepare, encode
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="ideal")
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="ideal-decode")
        self._connection = psycopg.connect(database_url, autocommit=True)
        register_vector(self._connection)

    def close(self) -> None:
        """End the threads and the connection."""
        self._threads.shutdown()
        self._decoders.shutdown()
        self._connection.close()

    def best_size(self, items: Sequence[Any], sizes: Sequence[int]) -> int:
        """The batch size of several that takes least for an item, by the second-best of four forwards of each."""
        return min(sizes, key=lambda size: self.forward_seconds(items, size) / size)

    def forward_seconds(self, items: Sequence[Any], size: int) -> float:
        """Seconds of a forward of so many items with nothing beside it."""
        some = [self._prepare(item) for item in items[:size]]
        prepared = [some[n % len(some)] for n in range(size)]
        return sorted(self._threads.submit(self._timed, prepared).result() for _ in range(4))[1]

    def run(self, items: Sequence[Any], table: str) -> float:
        """Items per second of all of it; the vectors are in the (emptied) table afterwards."""
        self._connection.execute(f"truncate {table}")
        began = time.perf_counter()
        self._threads.submit(self._loop, items, table).result()
        return len(items) / (time.perf_counter() - began)

    def _loop(self, items: Sequence[Any], table: str) -> None:
        ahead: deque[Future[Any]] = deque()
        left = iter(items)
        number = 0
        with (
            self._connection.cursor() as cursor,
            cursor.copy(f"copy {table} (item_id, vec) from stdin (format binary)") as copy,
        ):
            copy.set_types(["int8", "halfvec"])
            while True:
                while len(ahead) < 3 * self.batch and (item := next(left, None)) is not None:
                    ahead.append(self._decoders.submit(self._prepare, item))
                if not ahead:
                    return
                vectors = self._encode([ahead.popleft().result() for _ in range(min(self.batch, len(ahead)))])
                for unit in vectors / np.linalg.norm(vectors, axis=1, keepdims=True):
                    copy.write_row((number, HalfVector(unit.astype(np.float16))))
                    number += 1

    def _timed(self, prepared: Sequence[Any]) -> float:
        began = time.perf_counter()
        self._encode(prepared)
        return time.perf_counter() - began
