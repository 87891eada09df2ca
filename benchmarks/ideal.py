"""The ideal loop: what one process does with these images on this machine when nothing else is asked of it.

Two threads read and decode ahead of the forward, batches are of the size that runs fastest here, and the vectors go
into a table like sightline's partition in one COPY that stays open. No queue, no ledger, no check of the content.
"""

from __future__ import annotations

import io
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psycopg
from pgvector import HalfVector
from pgvector.psycopg import register_vector
from PIL import Image

from models.encoder import Encoder

SIZES = (4, 8, 16, 32, 64)
"""Of a batch, the best of which is taken."""
DECODERS = 2


def decode(encoder: Encoder, path: str | Path) -> np.ndarray:
    """A file to what the model takes."""
    with Image.open(io.BytesIO(Path(path).read_bytes())) as image:
        return encoder.prepare_image(np.asarray(image.convert("RGB")))


class IdealLoop:
    """The loop for one model. Its forward runs in a thread that does nothing else, as a worker's does.

    (In the main thread OpenMP waits by spinning, which costs more than it brings where other threads decode.)

    Attributes:
        batch: images of one forward.
        forward_ms: of such a batch, in the last run, while the decoders ran beside it.
    """

    def __init__(self, encoder: Encoder, database_url: str) -> None:
        self.encoder = encoder
        self.forward_ms: list[float] = []
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="ideal")
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="ideal-decode")
        self._connection = psycopg.connect(database_url, autocommit=True)
        register_vector(self._connection)
        self.batch = 0

    def close(self) -> None:
        """End the threads and the connection."""
        self._threads.shutdown()
        self._decoders.shutdown()
        self._connection.close()

    def tune(self, files: Sequence[Path]) -> None:
        """Find the best batch size, by the median of three forwards each."""
        rates = {}
        for size in SIZES:
            pixels = [decode(self.encoder, file) for file in files[:size]]
            pixels = [pixels[n % len(pixels)] for n in range(size)]
            times = sorted(self._threads.submit(self._forward, pixels).result()[0] for _ in range(4))
            rates[size] = size / times[1]
        self.batch = max(rates, key=lambda size: rates[size])

    def forward_seconds(self, files: Sequence[Path], size: int) -> float:
        """Median seconds of a forward of so many images and nothing else."""
        pixels = [decode(self.encoder, file) for file in files[:size]]
        return sorted(self._threads.submit(self._forward, pixels).result()[0] for _ in range(5))[2]

    def run(self, files: Sequence[Path], table: str) -> float:
        """Items per second of all of it; the vectors are in the (emptied) table afterwards."""
        self._connection.execute(f"truncate {table}")
        began = time.perf_counter()
        self._threads.submit(self._loop, files, table).result()
        return len(files) / (time.perf_counter() - began)

    def _loop(self, files: Sequence[Path], table: str) -> None:
        self.forward_ms = []
        ahead: deque[Future[np.ndarray]] = deque()
        left = iter(files)
        number = 0
        with self._connection.cursor() as cursor:
            with cursor.copy(f"copy {table} (item_id, vec) from stdin (format binary)") as copy:
                copy.set_types(["int8", "halfvec"])
                while True:
                    for file in left:
                        ahead.append(self._decoders.submit(decode, self.encoder, file))
                        if len(ahead) >= 3 * self.batch:
                            break
                    if not ahead:
                        return
                    pixels = [ahead.popleft().result() for _ in range(min(self.batch, len(ahead)))]
                    seconds, vectors = self._forward(pixels)
                    self.forward_ms.append(1000 * seconds)
                    for unit in vectors / np.linalg.norm(vectors, axis=1, keepdims=True):
                        copy.write_row((number, HalfVector(unit.astype(np.float16))))
                        number += 1

    def _forward(self, pixels: Sequence[np.ndarray]) -> tuple[float, np.ndarray]:
        began = time.perf_counter()
        vectors = self.encoder.encode_images(pixels)
        return time.perf_counter() - began, vectors
