"""Memory of a worker: as much for ten times the items."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.photos import copies
from benchmarks.row import Row
from sightline.client import Sightline
from sightline.item import Item
from sightline.services import running_services
from sightline.settings import Settings

LIMIT = 1.1
SAMPLE_SECONDS = 0.25


def measure(folder: Path, items: int, say: Callable[[str], None]) -> Row:
    """The largest resident memory of one worker while it encodes `items` images, beside a tenth of them before."""
    settings = Settings(home=folder / "home", log_level="warning")
    originals = [_small(seed) for seed in range(64)]
    peaks = {}
    with running_services(settings) as services:
        with Sightline(services.database_url, services.redis_url, settings=settings) as client:
            assert services.worker.pid is not None
            first = 0
            for name, count in (("warm", min(1000, items // 10)), ("tenth", items // 10), ("all", items)):
                contents = enumerate(copies(originals, first, count))
                images = (Item(data=content, external_id=str(n)) for n, content in contents)
                first += count
                with _peak(services.worker.pid) as peak:
                    now = client.ingest(images, collection=name).wait(timeout=7200)
                assert (now.done, now.failed) == (count, 0), now
                peaks[name] = max(peak) / 2**20
                say(f"{count:,} images: {peaks[name]:.0f} MiB")
    return Row(
        "memory", f"resident memory of the worker, {items:,} images", f"{items // 10:,} images before", "x",
        [peaks["all"] / peaks["tenth"]], [peaks["all"]], [peaks["tenth"]], "MiB", LIMIT, at_least=False,
    )  # fmt: skip


@contextmanager
def _peak(pid: int) -> Iterator[list[int]]:
    """Bytes of resident memory of a process, sampled until the end of the block."""
    seen: list[int] = []
    over = threading.Event()

    def sample() -> None:
        while True:
            status = Path(f"/proc/{pid}/status").read_text()
            seen.append(1024 * int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]))
            if over.wait(SAMPLE_SECONDS):
                return

    thread = threading.Thread(target=sample, name="memory")
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def _small(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((96, 72), Image.Resampling.BICUBIC).save(file, "JPEG", quality=85)
    return file.getvalue()
