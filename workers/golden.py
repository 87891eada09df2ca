"""Fixed inputs whose vectors must stay what they were: alone, and in a batch with others.

What turns vectors wrong without an error (bad memory, a driver, padding that is seen, a weight that was overwritten)
shows here before a user sees it.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import structlog

from models.encoder import Encoder
from workers.engine import Engine, Work
from workers.errors import EngineUnavailable
from workers.metrics import DRIFT

log = structlog.get_logger(__name__)

CHECK_SECONDS = 300.0
"""Between two checks."""
WAIT_SECONDS = 120.0
"""How long a check may wait for the model."""
TOLERANCE = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 6e-2}
"""L2 distance between vectors of length 1 that rounding explains, by number format of the space."""
TEXTS = ("a", "a photo of a red cube", "two birds on a wire, seen from below, " * 3, "every word of a long story " * 40)


@dataclass(frozen=True, slots=True)
class Reference:
    """The golden vectors of one kind of input, as a model computed them when it was loaded.

    Args:
        kind: "image" or "text".
        inputs: sha256 of what was encoded, before any preparation.
        vectors: float32 (n, dim), each of length 1.
    """

    kind: str
    inputs: bytes
    vectors: np.ndarray


class Golden:
    """The golden vectors of one loaded model. Safe in threads.

    Args:
        encoder: the model; its passport says how exact it is.
        works: the same model, as the engine runs it.
        engine: that runs it.
        name: for logs and metrics.

    Attributes:
        reason: why the model's vectors cannot be trusted, in words; None when they can.
        epoch: grows whenever they can no longer be trusted: what was computed before is forgotten.
    """

    def __init__(self, encoder: Encoder, works: Sequence[Work], engine: Engine, name: str) -> None:
        self.reason: str | None = None
        self.epoch = 0
        self.tolerance = TOLERANCE[encoder.passport.dtype]
        self._engine, self._name = engine, name
        self._checking = threading.Lock()
        self._sound_at = time.time()
        self._inputs = [(work, _prepared(encoder, work.kind)) for work in works]
        self._reference = {work.kind: self._alone(work, items) for work, items in self._inputs}
        self._check({"in a batch": self._mixed})

    def references(self) -> list[Reference]:
        """What the model computed when it was loaded, by kind."""
        return [
            Reference(work.kind, _digest(work.kind), self._reference[work.kind].astype(np.float32))
            for work, _ in self._inputs
        ]

    def check(self) -> float:
        """Encode all again; returns the worst distance, and sets `reason`."""
        return self._check({"alone": self._alone, "in a batch": self._mixed})

    def _check(self, ways: Mapping[str, Callable[[Work, Sequence[Any]], np.ndarray]]) -> float:
        with self._checking:
            worst, said = 0.0, ""
            try:
                for work, items in self._inputs:
                    reference = self._reference[work.kind]
                    for how, encoded in ways.items():
                        distances = np.linalg.norm(encoded(work, items) - reference, axis=1)
                        distance = float(np.nan_to_num(distances, nan=np.inf).max())
                        if distance >= worst:
                            worst, said = distance, f"{work.kind}s {how}"
            except EngineUnavailable:  # it closes, or says itself what is wrong with it
                return worst
            except Exception as error:  # noqa: BLE001 - that too is a model that cannot be relied on
                worst, said = float("inf"), f"{type(error).__name__}: {error}"
            self._judge(worst, said)
            return worst

    def _judge(self, worst: float, said: str) -> None:
        DRIFT.labels(self._name).set(worst)
        if worst <= self.tolerance:
            if self.reason is not None:
                log.warning("vectors_sound_again", space=self._name, distance=worst)
            self.reason, self._sound_at = None, time.time()
            return
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self._sound_at))
        if self.reason is None:
            self.epoch += 1
            log.error("vectors_drifted", space=self._name, distance=worst, tolerance=self.tolerance, where=said,
                      suspect_since=since, then="nothing more is written to the space by this worker")  # fmt: skip
        self.reason = (
            f"its golden vectors drifted by {worst:.2g}, more than {self.tolerance:g} ({said}); what this worker "
            f"stored since {since} is suspect; restart the worker, and look at its memory and driver"
        )

    def _alone(self, work: Work, items: Sequence[Any]) -> np.ndarray:
        return np.concatenate([self._encoded(work, [item]) for item in items])

    def _mixed(self, work: Work, items: Sequence[Any]) -> np.ndarray:
        """In the other order and each beside all others, so that padding and positions are others."""
        return self._encoded(work, [*reversed(items), *items])[len(items) :]

    def _encoded(self, work: Work, items: Sequence[Any]) -> np.ndarray:
        """float32 (n, dim), each of length 1."""
        batch = self._engine.at_border(partial(_forward, work, items))
        vectors = np.asarray(batch.result(WAIT_SECONDS), np.float64)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _forward(work: Work, items: Sequence[Any]) -> list[Any]:
    return list(work.forward(work.collate(items)))


def _prepared(encoder: Encoder, kind: str) -> list[Any]:
    if kind == "text":
        return [encoder.prepare_text(text) for text in TEXTS]
    return [encoder.prepare_image(image) for image in _images()]


def _images() -> list[np.ndarray]:
    """Noise, a ramp and tiles, uint8 (height, width, 3)."""
    noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    ramp = np.broadcast_to(np.linspace(0, 255, 160, dtype=np.uint8)[None, :, None], (160, 160, 3))
    tiles = np.kron(
        np.random.default_rng(1).integers(0, 256, (5, 7, 3), dtype=np.uint8), np.ones((32, 32, 1), np.uint8)
    )
    return [np.ascontiguousarray(image) for image in (noise, ramp, tiles)]


def _digest(kind: str) -> bytes:
    """sha256 of the inputs: vectors of other ones say nothing about these."""
    parts = [text.encode() for text in TEXTS] if kind == "text" else [image.tobytes() for image in _images()]
    return hashlib.sha256(b"".join(len(part).to_bytes(8) + part for part in parts)).digest()
