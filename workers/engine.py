"""The batch engine of one encoder: one thread owns the forward, many threads submit and wait for their own item."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import structlog

from workers.errors import EncodeFailed, EngineUnavailable

log = structlog.get_logger(__name__)

Kind = Literal["image", "text"]
Lane = Literal["interactive", "rest"]

BATCH: dict[Kind, int] = {"image": 32, "text": 64}
"""Most items of one forward."""
WINDOW = 4
"""Batches that are cut from one sorted stretch of the queue."""
MAX_WAITING = 256
"""Most items that wait in one lane; whoever submits more waits with them."""


class Encodes(Protocol):
    """What the engine needs of an encoder."""

    def encode_images(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """uint8 (S, S, 3) each; float32 (n, dim)."""

    def encode_texts(self, texts: Sequence[Any]) -> np.ndarray:
        """Prepared texts; float32 (n, dim)."""


class Expired(Exception):
    """The deadline of a call passed before its turn came."""


@dataclass(slots=True)
class _Entry:
    kind: Kind
    prepared: Any
    deadline: float | None  # of time.monotonic()
    future: Future[np.ndarray] = field(default_factory=Future)

    @property
    def size(self) -> int:
        """Tokens of a text; a batch costs its longest."""
        return len(getattr(self.prepared, "ids", ()))


class Engine:
    """Runs the forwards of one encoder.

    An idle engine fires at once, there are no timers. Interactive items go before all others, at the next batch border.
    A forward that fails is bisected, so that only the guilty item fails. A thread that dies fails the items in its
    hands and is started again; no future is left hanging.

    Args:
        encoder: called by the engine's thread only.
        name: in logs and of the thread.
    """

    def __init__(self, encoder: Encodes, name: str) -> None:
        self._encoder = encoder
        self._name = name
        self._changed = threading.Condition()
        self._lanes: dict[Lane, deque[_Entry]] = {"interactive": deque(), "rest": deque()}
        self._cut: deque[list[_Entry]] = deque()
        self._in_hand: list[_Entry] = []
        self._began: float | None = None
        self._closed = False
        self.encoded = 0
        self._thread = threading.Thread(target=self._supervise, name=f"engine-{name}", daemon=True)
        self._thread.start()

    def submit(
        self, kind: Kind, prepared: Sequence[Any], lane: Lane = "rest", deadline: float | None = None
    ) -> list[Future[np.ndarray]]:
        """Queue items of one kind; waits while the lane is full.

        Args:
            kind: "image" (uint8 (S, S, 3) arrays) or "text" (prepared texts).
            prepared: any number of items.
            lane: "interactive" goes first.
            deadline: of `time.monotonic()`; items not begun by then fail with `Expired`.

        Returns:
            One future for each item: float32 (dim,), not normalised, or the item's error.
        """
        entries = [_Entry(kind, item, deadline) for item in prepared]
        with self._changed:
            for first in range(0, len(entries), BATCH[kind]):
                part = entries[first : first + BATCH[kind]]
                while not self._closed and self._waiting(lane) and self._waiting(lane) + len(part) > MAX_WAITING:
                    self._changed.wait(1.0)
                if self._closed:
                    _fail(entries[first:], EngineUnavailable(f"the engine of {self._name} is closed"))
                    break
                self._lanes[lane].extend(part)
                self._changed.notify_all()
        return [entry.future for entry in entries]

    @property
    def busy_seconds(self) -> float:
        """How long the batch in hand has been there; 0 when idle."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    def close(self) -> None:
        """Fail what waits, and end the thread after the batch in hand."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(5.0)
        with self._changed:
            self._fail_waiting()

    def _waiting(self, lane: Lane) -> int:
        return len(self._lanes[lane]) + (sum(map(len, self._cut)) if lane == "rest" else 0)

    def _supervise(self) -> None:
        """Keep the loop running whatever it dies of."""
        while not self._closed:
            try:
                self._loop()
            except BaseException as error:
                log.exception("engine_died", engine=self._name)
                _fail(
                    self._in_hand,
                    EngineUnavailable(f"the engine of {self._name} died: {type(error).__name__}: {error}"),
                )
            finally:
                self._in_hand, self._began = [], None
        with self._changed:
            self._fail_waiting()

    def _fail_waiting(self) -> None:
        left = [*self._lanes["interactive"], *self._lanes["rest"], *(entry for batch in self._cut for entry in batch)]
        self._lanes["interactive"].clear()
        self._lanes["rest"].clear()
        self._cut.clear()
        _fail(left, EngineUnavailable(f"the engine of {self._name} was closed"))

    def _loop(self) -> None:
        while (batch := self._next_batch()) is not None:
            self._in_hand = batch
            self._began = now = time.monotonic()
            late = [entry for entry in batch if entry.deadline is not None and entry.deadline < now]
            _fail(late, Expired("the deadline passed before the forward"))
            # False where whoever waited has cancelled; from here on nobody else may settle the future.
            live = [e for e in batch if not e.future.done() and e.future.set_running_or_notify_cancel()]
            self._encode(live)
            self._in_hand, self._began = [], None

    def _next_batch(self) -> list[_Entry] | None:
        """The batch whose turn it is; None when the engine closes."""
        with self._changed:
            while not self._closed:
                if self._lanes["interactive"]:
                    batch = _take(self._lanes["interactive"], 1)
                elif self._cut:
                    batch = self._cut.popleft()
                elif self._lanes["rest"]:
                    window = _take(self._lanes["rest"], WINDOW)
                    window.sort(key=lambda entry: entry.size)
                    step = BATCH[window[0].kind]
                    self._cut.extend(window[i : i + step] for i in range(0, len(window), step))
                    continue
                else:
                    self._changed.wait()
                    continue
                self._changed.notify_all()
                return batch
        return None

    def _encode(self, entries: list[_Entry]) -> None:
        """One forward; on an error the two halves, until the guilty item is alone."""
        if not entries:
            return
        result = self._forward(entries)
        if isinstance(result, np.ndarray):
            self.encoded += len(entries)
            for entry, vector in zip(entries, result, strict=True):
                entry.future.set_result(vector)
        elif len(entries) == 1:
            log.warning("item_failed_in_forward", engine=self._name, error=f"{type(result).__name__}: {result}")
            entries[0].future.set_exception(result)
        else:
            middle = len(entries) // 2
            self._encode(entries[:middle])
            self._encode(entries[middle:])

    def _forward(self, entries: list[_Entry]) -> np.ndarray | Exception:
        prepared = [entry.prepared for entry in entries]
        try:
            images = entries[0].kind == "image"
            vectors = self._encoder.encode_images(prepared) if images else self._encoder.encode_texts(prepared)
            if vectors.ndim != 2 or len(vectors) != len(entries):
                raise ValueError(f"{len(entries)} items gave vectors of shape {vectors.shape}")
        except Exception as error:  # noqa: BLE001 - whatever a model raises is the answer to these items
            if type(error).__name__ == "OutOfMemoryError":
                _free_device_memory()
            # Its frames would keep the batch, on the device too, alive for as long as the future.
            return error.with_traceback(None)
        except BaseException as error:  # noqa: BLE001 - SystemExit too is the fault of one item, not of its neighbours
            return EncodeFailed(f"the model raised {type(error).__name__}: {error}")
        return vectors


def _take(lane: deque[_Entry], batches: int) -> list[_Entry]:
    """Take the oldest entry and those of its kind behind it, at most so many batches; the others keep their order."""
    kind = lane[0].kind
    taken: list[_Entry] = []
    left: list[_Entry] = []
    while lane:
        entry = lane.popleft()
        (taken if entry.kind == kind and len(taken) < batches * BATCH[kind] else left).append(entry)
    lane.extend(left)
    return taken


def _fail(entries: Sequence[_Entry], error: Exception) -> None:
    for entry in entries:
        if not entry.future.done():
            with contextlib.suppress(Exception):  # cancelled in between
                entry.future.set_exception(error)


def _free_device_memory() -> None:
    import torch

    torch.cuda.empty_cache()
