"""A scorer as the engine's work: pairs of a prepared query and a prepared candidate to scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from models.errors import NonFinite
from models.protocols import Part, PreparedPart, Scorer


class Pair(NamedTuple):
    """A query and one candidate, prepared."""

    query: PreparedPart
    candidate: PreparedPart


class PairWork:
    """Pairs to numbers in [0, 1]; they cost by the tokens of both. A batch may hold pairs of several queries."""

    kind: str = "pair"

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    def size(self, prepared: Pair) -> int:
        """Tokens of query and candidate."""
        return prepared.query.size + prepared.candidate.size

    def samples(self) -> list[Pair]:
        """A short text with a short one, or an image, and a long one."""
        asked, shown = min(self._scorer.takes, key=lambda pair: pair != ("text", "image"))
        parts: dict[str, tuple[Part, Part]] = {
            "text": ("a", "red cube " * 2000),
            "image": (np.zeros((64, 64, 3), np.uint8),) * 2,
        }
        return [
            Pair(self._scorer.prepare(query, "query"), self._scorer.prepare(candidate, "candidate"))
            for query, candidate in zip(parts[asked], parts[shown], strict=True)
        ]

    def collate(self, prepared: Sequence[Pair]) -> Sequence[Pair]:
        """The pairs: what a scorer puts on the device depends on the query."""
        return prepared

    def forward(self, batch: Sequence[Pair]) -> np.ndarray:
        """A score for each pair; pairs of one query go together."""
        scores = np.zeros(len(batch), np.float32)
        places: dict[tuple[int, str], list[int]] = {}
        for place, pair in enumerate(batch):
            places.setdefault((id(pair.query), pair.candidate.modality), []).append(place)
        for group in places.values():
            try:
                scores[group] = self._scorer.score(batch[group[0]].query, [batch[place].candidate for place in group])
            except NonFinite as error:
                named = [group[index] for index in error.indices]
                raise NonFinite(named, "scores", self._scorer.identity.dtype) from error
        return scores
