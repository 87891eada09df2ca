"""What a vision expert says of an image, and what it must offer to join."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, Protocol

import numpy as np

from models.errors import ModelError
from models.protocols import Identity

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in shares of the image's sides, left before right and top before bottom."""
Kind = Literal["thing", "word", "attribute", "colour"]
WHOLE: Final[Box] = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that an expert found.

    Args:
        expert: who found it: "detector", "ocr", "attributes", "colours".
        kind: a thing that is there, words that can be read, or an attribute or a colour of what the box holds.
        label: what it is, in words. Of words: as they were read, which is text of strangers.
        score: in [0, 1], higher is surer; comparable within one expert only.
        box: where.
    """

    expert: str
    kind: Kind
    label: str
    score: float
    box: Box = WHOLE

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, rounded to what is worth keeping."""
        told = asdict(self)
        return {**told, "score": round(self.score, 4), "box": [round(side, 4) for side in self.box]}


Found = list[Finding] | ModelError
"""What became of one image: findings, best first, maybe none; or why it could not be looked at."""


class Expert(Protocol):
    """Images to findings. `find` may be called by many threads; it takes care of itself.

    Attributes:
        name: as findings call it.
        identity: which model this is.
        trusted: the score from which on its findings are believed where nothing else is said.
    """

    name: str
    identity: Identity
    trusted: float

    def find(self, images: Sequence[np.ndarray]) -> list[Found]:
        """What is found in each image, any number of them, uint8 RGB (height, width, 3) of any size.

        An image that cannot be looked at has its error in its place.
        """


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes; 0 where they only touch."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    area = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return both / (sum(area) - both)


def distinct(findings: Sequence[Finding], most: float = 0.5) -> list[Finding]:
    """The findings, best first, without those that overlap a better one of the same label by more than `most`."""
    kept: list[Finding] = []
    for one in sorted(findings, key=lambda finding: -finding.score):
        if not any(one.label == other.label and overlap(one.box, other.box) > most for other in kept):
            kept.append(one)
    return kept


def window(image: np.ndarray, box: Box, enlarged: float = 0.0) -> tuple[slice, slice]:
    """The rows and columns of what a box holds, at least one of each, with a margin of a share of its sides."""
    height, width = image.shape[:2]
    left, top, right, bottom = box
    wider, higher = (right - left) * enlarged / 2, (bottom - top) * enlarged / 2
    x0 = min(max(int((left - wider) * width), 0), width - 1)
    y0 = min(max(int((top - higher) * height), 0), height - 1)
    x1 = min(max(round((right + wider) * width), x0 + 1), width)
    y1 = min(max(round((bottom + higher) * height), y0 + 1), height)
    return slice(y0, y1), slice(x0, x1)


def crop(image: np.ndarray, box: Box, enlarged: float = 0.0) -> np.ndarray:
    """What a box holds; a view."""
    return image[window(image, box, enlarged)]
