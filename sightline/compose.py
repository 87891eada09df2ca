"""A query of an image and words as one vector: what is to be found is like the image, but for what the words say.

`sum` adds the two vectors (SPN4CIR, 2024). `pdv` (Tursun et al. 2026) takes the words as a direction: from
the text of the reference image to the text of what is wanted, and goes along it from either. With unit vectors i of the
image, t of the reference's text and w of the wanted text:

    q = unit((1 - beta) (i + alpha_image (w - t)) + beta (t + alpha_text (w - t)))

alpha_image = alpha_text = beta = 1 is the search for the wanted text alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from sightline.errors import UsageError

Compose = Literal["sum", "pdv"]
COMPOSITIONS: tuple[Compose, ...] = ("sum", "pdv")
ALPHA_IMAGE, ALPHA_TEXT, BETA = 1.4, 1.2, 0.75
"""What the paper found best on CIRCO and CIRR."""
_ALPHAS = (-0.5, 2.0)


def compose_sum(image: Sequence[float], text: Sequence[float]) -> list[float]:
    """The unit vector halfway between two unit vectors. Raises UsageError where they cancel out."""
    return _unit([a + b for a, b in zip(image, text, strict=True)])


def compose_pdv(
    image: Sequence[float],
    reference: Sequence[float],
    wanted: Sequence[float],
    alpha_image: float = ALPHA_IMAGE,
    alpha_text: float = ALPHA_TEXT,
    beta: float = BETA,
) -> list[float]:
    """The formula above, of unit vectors.

    Args:
        image, reference, wanted: of the image, of its text, and of the text of what is wanted.
        alpha_image, alpha_text: how far to go along the direction; negative is away from it.
        beta: share of the texts.

    Raises:
        UsageError: a factor outside its range.
    """
    for name, value in (("alpha_image", alpha_image), ("alpha_text", alpha_text)):
        if not _ALPHAS[0] <= value <= _ALPHAS[1]:
            raise UsageError(f"{name} must lie between {_ALPHAS[0]} and {_ALPHAS[1]}, not {value}")
    if not 0 <= beta <= 1:
        raise UsageError(f"beta must lie between 0 and 1, not {beta}")
    return _unit(
        [
            (1 - beta) * (i + alpha_image * (w - t)) + beta * (t + alpha_text * (w - t))
            for i, t, w in zip(image, reference, wanted, strict=True)
        ]
    )


def _unit(vector: list[float]) -> list[float]:
    norm = math.sqrt(sum(x * x for x in vector))
    if norm < 1e-6:
        raise UsageError("the vectors cancel each other out: nothing is left to search for")
    return [x / norm for x in vector]
