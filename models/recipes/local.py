"""Models of this process as the tools of recipes: one forward of each at a time, whoever asks."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from models.errors import ModelError, NonFinite
from models.matcher import BlipMatcher
from models.protocols import GREEDY, Caption, Captioner, Decoding, ImageTextEncoder, PreparedPart

BATCH = 32
"""Pairs, texts or images of one forward."""


class Turns:
    """Who may run a forward now. Safe in threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began: float | None = None

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the turn, and have it meanwhile."""
        with self._lock:
            self._began = time.monotonic()
            try:
                yield
            finally:
                self._began = None

    @property
    def busy_seconds(self) -> float:
        """How long the forward under way has lasted; 0 when idle."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began


class InTurn:
    """A captioner whose forwards are run one at a time."""

    def __init__(self, captioner: Any, turns: Turns) -> None:
        self.identity = captioner.identity
        self.device: str = captioner.device
        self._captioner, self._turns = captioner, turns

    def prepare_image(self, image: np.ndarray) -> Any:
        """See `models.protocols.Captioner`."""
        return self._captioner.prepare_image(image)

    def caption(self, pixels: Sequence[Any], prompt: str | None = None, decoding: Decoding = GREEDY) -> list[Caption]:
        """See `models.protocols.Captioner`."""
        with self._turns.turn():
            captions: list[Caption] = self._captioner.caption(pixels, prompt, decoding)
        return captions

    def draw(
        self, pixels: Sequence[Any], n: int, prompt: str | None = None, decoding: Decoding = GREEDY
    ) -> list[list[Caption]]:
        """See `models.captioner.BlipCaptioner.draw`."""
        with self._turns.turn():
            captions: list[list[Caption]] = self._captioner.draw(pixels, n, prompt, decoding)
        return captions


class LocalVectors:
    """A dual encoder's unit vectors; conforms to `models.recipes.tools.Vectors`."""

    def __init__(self, encoder: ImageTextEncoder, turns: Turns | None = None) -> None:
        self.model = encoder.passport.model
        self._encoder, self._turns = encoder, turns or Turns()

    def images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """float32 (n, dim), of length 1."""
        return self._units([self._encoder.prepare_image(image) for image in images], self._encoder.encode_images)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (n, dim), of length 1."""
        return self._units([self._encoder.prepare_text(text) for text in texts], self._encoder.encode_texts)

    def _units(self, prepared: Sequence[Any], encode: Any) -> np.ndarray:
        found = [np.zeros((0, self._encoder.dim), np.float32)]
        for first in range(0, len(prepared), BATCH):
            with self._turns.turn():
                found.append(encode(prepared[first : first + BATCH]))
        vectors = np.concatenate(found)
        units: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return units


class LocalMatcher:
    """A matcher of BLIP format; conforms to `models.recipes.tools.Matcher`."""

    def __init__(self, matcher: BlipMatcher, turns: Turns | None = None) -> None:
        self.model = matcher.identity.model
        self._matcher, self._turns = matcher, turns or Turns()

    def match(self, images: Sequence[np.ndarray], texts: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """For each image the probability of each of its texts, float32; NaN for a text that cannot be read."""
        found = [np.full(len(each), np.nan, np.float32) for each in texts]
        pairs = []
        for row, each in enumerate(texts):
            for place, text in enumerate(each):
                part = self._prepared(text)
                if part is not None:
                    pairs.append((row, place, part.value))
        for first in range(0, len(images), BATCH):
            rows = range(first, min(first + BATCH, len(images)))
            mine = [pair for pair in pairs if pair[0] in rows]
            if mine:
                seen = [self._matcher.prepare(images[row], "candidate").value for row in rows]
                with self._turns.turn():
                    tokens = self._matcher.see(seen)
                for start in range(0, len(mine), BATCH):
                    part_of = mine[start : start + BATCH]
                    values = [value for _, _, value in part_of]
                    for (row, place, _), odds in zip(
                        part_of, self._odds(values, tokens[[row - first for row, _, _ in part_of]]), strict=True
                    ):
                        found[row][place] = 1 / (1 + np.exp(-odds))
        return found

    def _odds(self, texts: Sequence[Any], images: Any) -> np.ndarray:
        """float64 (n,); NaN for a pair of which the model makes no number."""
        odds = np.full(len(texts), np.nan)
        left = list(range(len(texts)))
        while left:
            try:
                with self._turns.turn():
                    odds[left] = self._matcher.log_odds([texts[place] for place in left], images[left])
                break
            except NonFinite as error:
                bad = {left[index] for index in error.indices} or set(left)
                left = [place for place in left if place not in bad]
        return odds

    def _prepared(self, text: str) -> PreparedPart | None:
        try:
            return self._matcher.prepare(text, "query")
        except ModelError:
            return None


def drawn(
    captioner: Captioner, pixels: Sequence[Any], n: int, prompt: str | None, decoding: Decoding
) -> list[list[Caption]]:
    """n captions for each prepared image, of as many seeds; a captioner that can looks at each image once."""
    draw = getattr(captioner, "draw", None)
    if draw is not None:
        found: list[list[Caption]] = draw(pixels, n, prompt, decoding)
        return found
    from dataclasses import replace

    each = [captioner.caption(pixels, prompt, replace(decoding, seed=decoding.seed + i)) for i in range(n)]
    return [list(captions) for captions in zip(*each, strict=True)]
