"""Calls while bulk runs: how long a query text waits for its turn when the worker always has photographs to encode."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from benchmarks.arena import VIT, Arena
from benchmarks.row import Row, percentile
from sightline.item import Item
from sightline.job import Job

CALLS_PER_SECOND = 10.0
"""At most; on a slower machine one for each bulk batch, so that calls do not queue up behind each other there."""
SETTLE_SECONDS = 5.0
"""Of bulk alone, which say how long a batch takes."""
WAITING = 64
"""Threads that wait until their call is due, or for its answer: more than ever wait at a time."""
AHEAD = 2
"""Jobs that are open at any time."""


def measure(arena: Arena) -> list[Row]:
    """The 99th percentile of calls that arrive at random, each timed from the moment it was due."""
    space, noop = arena.space(VIT), arena.noop()
    count = arena.scale.busy_calls // arena.scale.rounds
    numbers = itertools.count(1)
    calls: list[list[float]] = []
    noops: list[list[float]] = []

    def ask() -> None:
        arena.client.encode(texts=[f"busy {next(numbers)}"], space=space, timeout=60)

    with _bulk(arena):
        before = arena.batches()
        while (settled := arena.batches().since(before)).seconds < min(SETTLE_SECONDS, count / CALLS_PER_SECOND):
            time.sleep(0.1)
        rate = min(CALLS_PER_SECOND, 1000 / settled.mean_ms)
        before, began = arena.batches(), time.monotonic()
        for round_ in range(arena.scale.rounds):
            with ThreadPoolExecutor(WAITING) as callers, ThreadPoolExecutor(WAITING) as idlers:
                asked = _at(callers, arrivals(round_, count, rate), ask)
                idle = _at(idlers, arrivals(1000 + round_, count, rate), noop)
                calls.append([future.result() for future in asked])
                noops.append([future.result() for future in idle])
        batch = arena.batches().since(before)
        bulk = batch.items / (time.monotonic() - began)
    flat, nothing = [x for part in calls for x in part], [x for part in noops for x in part]
    allowed = [2 * batch.mean_ms + percentile(part, 99) for part in noops]
    ours = [percentile(part, 99) for part in calls]
    pooled = percentile(flat, 99) / (2 * batch.mean_ms + percentile(nothing, 99))
    return [
        Row(
            "busy", "99th percentile of a query text while bulk runs, 224-px ViT",
            "two batch times + 99th percentile of a call that does nothing", "x",
            [a / b for a, b in zip(ours, allowed, strict=True)], ours, allowed, "ms", 1.0, at_least=False, pooled=pooled,
            note=f"of {len(flat)} calls, {rate:.1f} a second at random: p50 {percentile(flat, 50):.0f}, "
            f"p99 {percentile(flat, 99):.0f} ms; a batch of {batch.mean_size:.1f} photographs takes {batch.mean_ms:.0f} ms in its forward; call that does nothing p99 "
            f"{percentile(nothing, 99):.0f} ms; bulk ran at {bulk:.1f} items/s beside them",
        )
    ]  # fmt: skip


def arrivals(seed: int, count: int, rate: float) -> list[float]:
    """Seconds after the start at which calls are due: independent, so many a second on average."""
    pauses = random.Random(seed)
    return list(itertools.accumulate(pauses.expovariate(rate) for _ in range(count)))


def _at(callers: ThreadPoolExecutor, due: list[float], call: Callable[[], object]) -> list[Future[float]]:
    """Milliseconds of each call from when it was due, however late its thread began."""
    began = time.perf_counter()

    def one(at: float) -> float:
        time.sleep(max(0.0, began + at - time.perf_counter()))
        call()
        return 1000 * (time.perf_counter() - began - at)

    return [callers.submit(one, at) for at in due]


@contextmanager
def _bulk(arena: Arena) -> Iterator[None]:
    """Keep the worker busy with photographs."""
    stop, running = threading.Event(), threading.Event()
    jobs: list[Job] = []
    files = arena.photographs(VIT)

    def feed() -> None:
        while not stop.is_set():
            if sum(not job.progress().finished for job in jobs[-AHEAD:]) < AHEAD:
                space = arena.space(VIT)
                items = [Item(path=file, external_id=str(n)) for n, file in enumerate(files)]
                jobs.append(arena.client.ingest(items, collection=space, space=space))
            if jobs[0].progress().done:
                running.set()
            stop.wait(0.2)

    with ThreadPoolExecutor(1) as threads:
        feeder = threads.submit(feed)
        try:
            while not (feeder.done() or running.wait(0.1)):
                pass
            yield
        finally:
            stop.set()
            feeder.result()
            for job in jobs:
                job.cancel()
