"""Collates a batch and runs it; what fails is bisected until the guilty item is alone."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from workers import metrics
from workers.engine.entry import Entry, Ready
from workers.engine.schedule import Batch
from workers.engine.work import Work
from workers.errors import EncodeFailed

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one batch.

    Args:
        results: one for each item; an exception is the error of that item.
        seconds: of the forward; None where one was not enough.
        too_large: the batch did not fit into memory, but each of its items does.
    """

    results: list[Any]
    seconds: float | None
    too_large: bool


class Forward:
    """Runs batches of all kinds of one model.

    Args:
        works: by kind.
        name: of the engine, in logs and metrics.
    """

    def __init__(self, works: Mapping[str, Work], name: str) -> None:
        self._works = works
        self._name = name

    def collate(self, ready: Ready) -> None:
        """Put a batch on the device. Raises what the work raises."""
        began = time.monotonic()
        kind = ready.batch.kind
        ready.collated = self._works[kind].collate([entry.prepared for entry in ready.batch.tickets])
        ready.is_collated = True
        metrics.COLLATE.labels(self._name, kind).observe(time.monotonic() - began)

    def run(self, ready: Ready) -> Outcome:
        """Results of a batch, whatever happens."""
        found = self._try(ready)
        if not isinstance(found, BaseException):
            return Outcome(found[0], found[1], too_large=False)
        results = self._bisect(ready, found)
        short = is_out_of_memory(found)
        if short:
            metrics.OUT_OF_MEMORY.labels(self._name).inc()
        return Outcome(results, None, short and not any(map(is_out_of_memory, results)))

    def _bisect(self, ready: Ready, error: Exception) -> list[Any]:
        entries = ready.batch.tickets
        if len(entries) == 1:
            log.warning("item_failed_in_forward", engine=self._name, error=f"{type(error).__name__}: {error}")
            return [error]
        results: list[Any] = []
        for half in (entries[: len(entries) // 2], entries[len(entries) // 2 :]):
            part = _part(ready, half)
            found = self._try(part)
            results += self._bisect(part, found) if isinstance(found, Exception) else found[0]
        return results

    def _try(self, ready: Ready) -> tuple[list[Any], float] | Exception:
        """Results and seconds of one forward, or why there are none."""
        kind, n = ready.batch.kind, len(ready.batch.tickets)
        try:
            if not ready.is_collated:
                self.collate(ready)
            began = time.monotonic()
            results = list(self._works[kind].forward(ready.collated))
            if len(results) != n:
                raise ValueError(f"{n} items gave {len(results)} results")
        except BaseException as error:  # noqa: BLE001 - whatever a model raises is the answer to these items
            if is_out_of_memory(error):
                _free_device_memory()
            if isinstance(error, Exception):
                # Its frames would keep the batch, on the device too, alive for as long as the future.
                return error.with_traceback(None)
            # SystemExit too is the fault of one item, not of its neighbours.
            return EncodeFailed(f"the model raised {type(error).__name__}: {error}")
        finally:
            ready.collated, ready.is_collated = None, False
        seconds = time.monotonic() - began
        metrics.FORWARD.labels(self._name, kind).observe(seconds)
        return results, seconds


def _part(whole: Ready, entries: list[Entry]) -> Ready:
    return Ready(Batch(whole.batch.kind, whole.batch.lane, entries, whole.batch.cost, full=False))


def is_out_of_memory(error: object) -> bool:
    """Of the device or of the host."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _free_device_memory() -> None:
    import torch

    torch.cuda.empty_cache()
