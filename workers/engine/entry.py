"""An item in the engine: what it is, where it stands, and the future of whoever waits for it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from workers.engine.schedule import Batch, Ticket


class Expired(Exception):
    """The deadline of a call passed before its turn came."""


@dataclass(slots=True, eq=False)
class Entry(Ticket):
    """An item that waits.

    Args:
        prepared: what its work's `collate` takes.
        nbytes: of pixels; texts do not count.
    """

    prepared: Any
    future: Future[Any] = field(default_factory=Future)
    nbytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.nbytes = int(getattr(self.prepared, "nbytes", 0))


@dataclass(slots=True, eq=False)
class Ready:
    """A batch whose turn it is, put on the device already or not."""

    batch: Batch[Entry]
    collated: Any = None
    is_collated: bool = False

    def keep(self, entries: list[Entry]) -> None:
        """Go on with some of its entries; it is collated again if others are left out."""
        if len(entries) < len(self.batch.tickets):
            self.batch.tickets, self.collated, self.is_collated = entries, None, False


def settle(future: Future[Any], result: Any) -> None:
    """Give a future its result or error, unless it has one."""
    with contextlib.suppress(Exception):  # settled or cancelled meanwhile
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)


def hand_out(entries: Sequence[Entry], results: Sequence[Any]) -> None:
    """Give each entry its result or error."""
    for entry, result in zip(entries, results, strict=True):
        settle(entry.future, result)


def fail(entries: Sequence[Entry], error: Exception) -> None:
    """Give all entries one error."""
    hand_out(entries, [error] * len(entries))
