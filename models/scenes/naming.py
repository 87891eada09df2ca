"""What a caption names of a scene's things, counted by the truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .parse import parse
from .scene import Scene

Kind = tuple[str | None, ...]
ALL = ("size", "texture", "colour", "shape")


def named(text: str, attributes: Sequence[str] = ALL) -> Counter[Kind]:
    """How often an English caption names each kind of thing, by the attributes that count.

    A claim without a shape and a colour ("three shapes") names no thing, and what a relation repeats is not counted.
    """
    query = parse(text)
    out: Counter[Kind] = Counter()
    for claim in query.claims if query else ():
        if claim.shape is not None or claim.colour is not None:
            out[tuple(getattr(claim, name) for name in attributes)] += 1 if claim.count is None else claim.count
    return out


def naming(
    texts: Sequence[str], scenes: Sequence[Scene], attributes: Sequence[str] = ALL
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each scene (share of its things that its caption names right, share right of what the caption names).

    A thing is named right if all of ``attributes`` are its own. A caption that names nothing has both shares 0.
    """
    recall, precision = np.zeros(len(texts)), np.zeros(len(texts))
    for row, (text, scene) in enumerate(zip(texts, scenes, strict=True)):
        there: Counter[Kind] = Counter(tuple(getattr(thing, name) for name in attributes) for thing in scene.things)
        told = named(text, attributes)
        right = (there & told).total()
        recall[row] = right / len(scene)
        precision[row] = right / told.total() if told else 0.0
    return recall, precision
