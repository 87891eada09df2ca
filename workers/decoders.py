"""The threads that fetch, decode and tokenise: a bad item never sinks its neighbours, one that hangs holds none up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import structlog

from workers.errors import EngineUnavailable, Stalled
from workers.items import Item, as_item_error

log = structlog.get_logger(__name__)

Step = Callable[[Item], Any]


@dataclass(slots=True)
class _Turn:
    """One item's way through one step."""

    item: Item
    future: Future[Any] | None = None
    began: float | None = None
    ended: bool = False
    given_up: bool = False


class Decoders:
    """A pool that takes items through a step. Safe in threads.

    A read from a network share that went away, or from a source that drips, cannot be interrupted. Such an item is
    given up, so that its chunk ends in time and the item is tried again later; the pool gets new threads.

    Args:
        threads: that work at a time.
        item_seconds: that one item may take in one step.
    """

    def __init__(self, threads: int, item_seconds: float) -> None:
        self._threads = threads
        self._seconds = item_seconds
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = self._made()
        self._hung = 0

    @property
    def hung(self) -> int:
        """How many threads hang in an item that was given up."""
        return self._hung

    def each(self, step: Step, items: Sequence[Item]) -> list[Any]:
        """Run a step for each item; what it raises becomes that item's error, and None its result."""
        turns = [_Turn(item) for item in items]
        for turn in turns:
            self._begin(step, turn)
        open_turns = turns
        while open_turns:
            wait([turn.future for turn in open_turns if turn.future], min(1.0, self._seconds / 4))
            self._give_up([turn for turn in open_turns if self._is_late(turn)])
            open_turns = [turn for turn in open_turns if not turn.given_up]
            for turn in open_turns:
                if turn.future is None or turn.future.cancelled():  # it waited behind threads that hang
                    self._begin(step, turn)
            open_turns = [turn for turn in open_turns if turn.future is None or not turn.future.done()]
        return [None if turn.given_up or turn.future is None else turn.future.result() for turn in turns]

    def close(self) -> None:
        """Take nothing more, and wait for nothing."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)

    def _made(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._threads, thread_name_prefix="decode")

    def _begin(self, step: Step, turn: _Turn) -> None:
        with self._lock:
            if self._executor is None:
                raise EngineUnavailable(f"{turn.item.external_id}: the worker is stopping")
            turn.future = self._executor.submit(self._run, step, turn)

    def _run(self, step: Step, turn: _Turn) -> Any:
        turn.began = time.monotonic()
        try:
            return step(turn.item)
        except BaseException as error:  # noqa: BLE001 - one bad item never sinks its neighbours
            if not turn.given_up:
                turn.item.error = as_item_error(error, turn.item.external_id)
                turn.item.data = None
            return None
        finally:
            with self._lock:
                turn.ended = True
                self._hung -= turn.given_up

    def _is_late(self, turn: _Turn) -> bool:
        return not turn.ended and turn.began is not None and time.monotonic() - turn.began > self._seconds

    def _give_up(self, turns: Sequence[_Turn]) -> None:
        """Let go of items whose threads hang, and put a new pool in the place of the old one."""
        if not turns:
            return
        with self._lock:
            turns = [turn for turn in turns if not turn.ended]
            for turn in turns:
                turn.given_up = True
                name = turn.item.external_id
                turn.item.error = Stalled(f"{name}: reading or decoding it did not end within {self._seconds:g} s")
                turn.item.data = None
            self._hung += len(turns)
            old, self._executor = self._executor, self._executor and self._made()
        if old is not None:
            old.shutdown(wait=False, cancel_futures=True)  # what waits there begins anew in the new pool
        names = [turn.item.external_id for turn in turns]
        log.warning("items_hang", items=names[:10], count=len(names), seconds=self._seconds, then="tried again later")
