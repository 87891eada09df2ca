"""The texts of calls: asked twice, encoded once, whether at the same time or later."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from workers.engine import Expired
from workers.errors import EngineUnavailable
from workers.flights import Flights
from workers.ingress import digest_of
from workers.items import cut_note
from workers.metrics import CACHE_HITS
from workers.recent import Recent
from workers.spaces import Served
from workers.vector import Vector, normalise

KEPT = 4096
"""Texts whose vectors are kept: 8 MB at 512 dimensions."""
GRACE = 1.0
"""Seconds beyond the deadline after which no answer is waited for: the engine itself drops what is late."""

_Key = tuple[int, int, bytes]


@dataclass(slots=True)
class _Mine:
    """A text that this call has to encode, for all who ask for it meanwhile."""

    key: _Key
    flight: Future[Vector]
    prepared: Any


class QueryTexts:
    """Vectors of texts, by space and content. A space's model never changes, so nothing grows old. Safe in threads."""

    def __init__(self) -> None:
        self._recent: Recent[Vector] = Recent(KEPT)
        self._flights = Flights("call")

    def encode(self, served: Served, texts: Mapping[int, str], deadline: float) -> dict[int, Vector | Exception]:
        """Vectors of texts, each with what of it was not read in `note`, or the text's own error.

        Args:
            served: the space.
            texts: by any number.
            deadline: of `time.monotonic()`.

        Raises:
            Expired, TimeoutError: the deadline passed.
        """
        found: dict[int, Vector | Exception] = {}
        left = dict(texts)
        while left:
            waiting = self._board(served, left, deadline)
            for index, (flight, first) in waiting.items():
                try:
                    found[index] = flight.result(deadline - time.monotonic() + GRACE)
                except (Expired, EngineUnavailable) as error:
                    # Of another call, which had less time, or that was given up: this one has its own.
                    if not first and time.monotonic() < deadline:
                        continue
                    if isinstance(error, Expired):
                        raise
                    found[index] = error
                except TimeoutError:
                    raise
                except Exception as error:  # noqa: BLE001 - it is this text's answer
                    found[index] = error
            left = {index: text for index, text in left.items() if index not in found}
        return found

    def _board(
        self, served: Served, texts: Mapping[int, str], deadline: float
    ) -> dict[int, tuple[Future[Vector], bool]]:
        """What to wait for, by number, and whether this call encodes it; all of that is submitted."""
        waiting: dict[int, tuple[Future[Vector], bool]] = {}
        mine: list[_Mine] = []
        for index, text in texts.items():
            key = (served.space_id, served.golden.epoch, digest_of(text.encode("utf-8", "surrogatepass")))
            if (known := self._recent.get(key)) is not None:
                CACHE_HITS.inc()
                flight: Future[Vector] = Future()
                flight.set_result(known)
                waiting[index] = flight, True
                continue
            flight, first = self._flights.join(key)
            waiting[index] = flight, first
            if first:
                try:
                    mine.append(_Mine(key, flight, served.encoder.prepare_text(text)))
                except BaseException as error:  # noqa: BLE001 - it is this text's answer
                    self._settle(key, flight, error)
        coming = served.engine.submit("text", [one.prepared for one in mine], "interactive", deadline)
        for one, future in zip(mine, coming, strict=True):
            note = "; ".join(cut_note(one.prepared, served.encoder.context_length)) or None
            future.add_done_callback(partial(self._land, one, note))
        return waiting

    def _land(self, one: _Mine, note: str | None, done: Future[np.ndarray]) -> None:
        """Hand a vector, or why there is none, to all who wait for it."""
        try:
            vector = replace(normalise(done.result()), note=note)
        except BaseException as error:  # noqa: BLE001 - it is the answer
            self._settle(one.key, one.flight, error)
        else:
            self._recent.put(one.key, vector)
            self._settle(one.key, one.flight, vector)

    def _settle(self, key: _Key, flight: Future[Vector], answer: Vector | BaseException) -> None:
        self._flights.end(key)
        if isinstance(answer, BaseException):
            flight.set_exception(answer)
        else:
            flight.set_result(answer)
