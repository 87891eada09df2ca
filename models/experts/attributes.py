"""Attributes of things: crops of their boxes beside words in the space of a dual encoder.

After OvarNet (Chen et al. 2023, paper 33), its light part: a detector's boxes, somewhat enlarged, and a vocabulary of
attributes; the score of a word is the softmax of scale x cosine over the words of which one holds. The texts name the
thing too ("a striped red circle"). Its learned prompts and its distilled detector are not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from models.checkpoint import BUNDLED_ID, JUDGE_ID
from models.errors import ModelError
from models.experts.finding import Box, Expert, Finding, Found, crop, window
from models.protocols import Identity
from models.recipes.tools import Vectors

SCALE: Final = 100.0
"""What CLIP models multiply cosines by; theirs end training near it."""
ENLARGED: Final = 0.2
PATTERNS: Final = ("plain, striped, dotted, outlined",)


class AttributeRecogniser:
    """Conforms to `models.experts.finding.Expert`; attributes have the box of their thing.

    Args:
        things: who finds the boxes.
        vectors: the dual encoder.
        groups: words of which one holds, separated by commas: ("plain, striped, dotted", "wooden, metal").
        least: things that score less are not looked at.
    """

    name = "attributes"
    trusted = 0.7

    def __init__(self, things: Expert, vectors: Vectors, groups: Sequence[str] = PATTERNS, least: float = 0.7) -> None:
        self._things, self._vectors, self._least = things, vectors, least
        self._groups = [tuple(word.strip() for word in group.split(",") if word.strip()) for group in groups]
        self.identity = Identity(
            model=f"{things.identity.model} + {vectors.model}",
            revision=None,
            kind="attributes",
            weights=things.identity.weights,
            tokenizer=None,
            preprocessing=f"boxes enlarged by {ENLARGED}",
            dtype="float32",
            source=things.identity.source,
            libraries=dict(things.identity.libraries),
        )

    def find(self, images: Sequence[np.ndarray]) -> list[Found]:
        """The likeliest word of each group for each thing."""
        return self.of(images, self._things.find(images))

    def of(self, images: Sequence[np.ndarray], things: Sequence[Found]) -> list[Found]:
        """As `find`, for things that were found already."""
        asked: list[tuple[int, Finding]] = []
        found: list[Found] = []
        for place, seen in enumerate(things):
            found.append(seen if isinstance(seen, ModelError) else [])
            if not isinstance(seen, ModelError):
                asked += [(place, thing) for thing in seen if thing.score >= self._least]
        if not asked or not self._groups:
            return found
        show = _alone if self._vectors.model in (BUNDLED_ID, JUDGE_ID) else crop
        shown = self._vectors.images([show(images[place], thing.box, ENLARGED) for place, thing in asked])
        words = sorted({f"a {word} {thing.label}" for _, thing in asked for group in self._groups for word in group})
        told = dict(zip(words, self._vectors.texts(words), strict=True))
        for (place, thing), vector in zip(asked, shown, strict=True):
            own = found[place]
            assert not isinstance(own, ModelError)
            for group in self._groups:
                cosines = np.array([float(vector @ told[f"a {word} {thing.label}"]) for word in group])
                odds = np.exp(SCALE * (cosines - cosines.max()))
                best = int(odds.argmax())
                own.append(Finding(self.name, "attribute", group[best], float(odds[best] / odds.sum()), thing.box))
        return found


def _alone(image: np.ndarray, box: Box, enlarged: float) -> np.ndarray:
    """The image with its median colour everywhere but in the box."""
    out = np.empty_like(image)
    out[:] = np.median(image.reshape(-1, 3), axis=0).astype(np.uint8)
    where = window(image, box, enlarged)
    out[where] = image[where]
    return out
