"""Late interaction: a query and a candidate as several vectors each, compared by MaxSim (Khattab & Zaharia 2020).

The score is the mean over the query's vectors of the best cosine with any vector of the candidate. Here the vectors are
those of a dual encoder: a text whole and by its clauses, an image whole and by its quarters and middle. No training is
needed, and stored slots of an item (regions, frames, sentences) are compared alike.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from models.errors import InvalidInput, NonFinite
from models.protocols import ImageEncoder, ImageTextEncoder, Modality, Part, PreparedPart, Role
from models.scorer import DualEncoderScorer, check_pair

__all__ = ["LateInteractionScorer", "clauses", "crops", "max_sim"]

MOST_CLAUSES = 16
"""Of one text; what follows is read in the whole text alone."""
SMALLEST_CROP = 32
"""Pixels of the shorter side of an image below which it is not cut."""
_CLAUSE = re.compile(r"[,;:.!?]\s+|\n+|\s+(?:and|with)\s+")


def clauses(text: str) -> list[str]:
    """The text, and its clauses where it has several: what stands between commas, full stops, "and" and "with"."""
    found = [part.strip(" \t\n.,;:!?") for part in _CLAUSE.split(text)]
    found = list(dict.fromkeys(part for part in found if part))
    return [text, *found[:MOST_CLAUSES]] if len(found) > 1 else [text]


def crops(image: np.ndarray) -> list[np.ndarray]:
    """The image, and five overlapping parts of two thirds of its sides where it is large enough to be cut.

    Args:
        image: uint8 (height, width, 3).
    """
    if image.ndim != 3 or min(image.shape[:2]) < SMALLEST_CROP:
        return [image]
    height, width = image.shape[:2]
    high, wide = (2 * height + 2) // 3, (2 * width + 2) // 3
    corners = [(0, 0), (0, width - wide), (height - high, 0), (height - high, width - wide)]
    corners.append(((height - high) // 2, (width - wide) // 2))
    return [image, *(image[top : top + high, left : left + wide] for top, left in corners)]


def max_sim(query: np.ndarray, candidate: np.ndarray) -> float:
    """(1 + mean of the best cosines) / 2, in [0, 1].

    Args:
        query: float (m, dim) of unit length, at least one.
        candidate: float (n, dim) of unit length, at least one.
    """
    # Summed pair by pair: a matrix product may add in another order for another shape.
    cosines = (query[:, None, :] * candidate[None, :, :]).sum(axis=-1)
    return float(np.clip((1 + cosines.max(axis=1).mean()) / 2, 0, 1))


class LateInteractionScorer:
    """MaxSim over the parts of query and candidate; conforms to `models.protocols.Scorer`.

    Args:
        encoder: a dual encoder, or one of images alone.
    """

    def __init__(self, encoder: ImageEncoder) -> None:
        self._encoder = encoder
        base = DualEncoderScorer(encoder)
        self.identity = replace(base.identity, kind=f"{encoder.passport.kind} late interaction")
        self.device = encoder.device
        self.takes: frozenset[tuple[Modality, Modality]] = base.takes

    def prepare(self, part: Part, role: Role) -> PreparedPart:
        """Cut into parts, and prepare each.

        Raises:
            InvalidInput: an empty text, one that is not Unicode, not an RGB image, or a modality it does not take.
        """
        if isinstance(part, np.ndarray):
            cut = [self._encoder.prepare_image(crop) for crop in crops(part)]
            return PreparedPart("image", cut, size=len(cut))
        if ("text", "text") not in self.takes:
            raise InvalidInput(f"{self.identity.model} takes no texts; give an image as the {role}")
        if not part.strip():
            raise InvalidInput(f"the text of the {role} is empty; leave it out")
        encoder: ImageTextEncoder = self._encoder  # type: ignore[assignment]
        texts = [encoder.prepare_text(clause) for clause in clauses(part)]
        return PreparedPart("text", texts, texts[0].truncated, sum(text.tokens for text in texts))

    def score(self, query: PreparedPart, candidates: Sequence[PreparedPart]) -> np.ndarray:
        """MaxSim of each candidate with the query.

        Raises:
            NonFinite: a vector of NaN or infinity, or of no length; all candidates are named if it is the query's.
        """
        for candidate in candidates:
            check_pair(self.takes, query.modality, candidate.modality)
        if not candidates:
            return np.empty(0, np.float32)
        parts = [query, *candidates]
        vectors = self._encode(parts)
        norms = [np.linalg.norm(found, axis=1, keepdims=True) for found in vectors]
        bad = [place for place, norm in enumerate(norms) if not (np.isfinite(norm).all() and (norm > 0).all())]
        if bad:
            named = range(len(candidates)) if 0 in bad else [place - 1 for place in bad]
            raise NonFinite(list(named), "scores", self.identity.dtype)
        units = [found / norm for found, norm in zip(vectors, norms, strict=True)]
        return np.array([max_sim(units[0], unit) for unit in units[1:]], np.float32)

    def _encode(self, parts: Sequence[PreparedPart]) -> list[np.ndarray]:
        """The vectors of each part; where a forward is not finite, NaN."""
        found = [np.full((len(part.value), self._encoder.dim), np.nan, np.float32) for part in parts]
        for modality in ("image", "text"):
            places = [
                (n, i) for n, part in enumerate(parts) if part.modality == modality for i in range(len(part.value))
            ]
            values = [parts[n].value[i] for n, i in places]
            for (n, i), vector in zip(places, self._forward(modality, values), strict=True):
                found[n][i] = vector
        return found

    def _forward(self, modality: str, values: Sequence[Any]) -> np.ndarray:
        if not values:
            return np.empty((0, self._encoder.dim), np.float32)
        encoder: ImageTextEncoder = self._encoder  # type: ignore[assignment]
        encode = self._encoder.encode_images if modality == "image" else encoder.encode_texts
        try:
            return encode(values)
        except NonFinite as error:
            good = [index for index in range(len(values)) if index not in error.indices]
            vectors = np.full((len(values), self._encoder.dim), np.nan, np.float32)
            if good:
                vectors[good] = encode([values[index] for index in good])
            return vectors
