"""Rerank endpoints in the shape of Cohere and Jina, which vLLM and others serve too: texts for a query in words.

Sent: `{"model", "query", "documents": [...], "top_n"}`; answered: `{"results": [{"index", "relevance_score"}, ...]}`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np

from models.endpoint.transport import Endpoint
from models.errors import AnswerMalformed, InvalidInput
from models.protocols import Identity, Modality, Part, PreparedPart, Role
from models.scorer import check_pair

__all__ = ["RerankEndpoint"]

MOST_DOCUMENTS = 100
"""Of one request; more candidates are several requests."""
MOST_CHARACTERS = 20_000
"""Of one text: what is longer is cut, and said so."""


class RerankEndpoint:
    """A scorer behind HTTP; conforms to `models.protocols.Scorer`, and is safe in threads.

    Args:
        endpoint: the server; "/rerank" is added to its address.
        model: its name there.
    """

    device = "remote"
    takes: frozenset[tuple[Modality, Modality]] = frozenset({("text", "text")})

    def __init__(self, endpoint: Endpoint, model: str) -> None:
        self._endpoint = endpoint
        self.identity = Identity(
            model=model, revision=None, kind="rerank endpoint", weights=None, tokenizer=None, preprocessing=None,
            dtype="unknown", source=endpoint.address, libraries={},
        )  # fmt: skip

    def prepare(self, part: Part, role: Role) -> PreparedPart:
        """A text, cut to `MOST_CHARACTERS`; the server may read less, and does not say so.

        Raises:
            InvalidInput: an image, an empty text, or one that is not Unicode.
        """
        if isinstance(part, np.ndarray):
            raise InvalidInput(f"{self.identity.model} compares texts only; the {role} is an image")
        if not part.strip():
            raise InvalidInput(f"the text of the {role} is empty; leave it out")
        try:
            part.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(f"the text of the {role} holds a lone surrogate at character {error.start}") from error
        return PreparedPart(
            "text", part[:MOST_CHARACTERS], len(part) > MOST_CHARACTERS, min(len(part), MOST_CHARACTERS)
        )

    def score(self, query: PreparedPart, candidates: Sequence[PreparedPart]) -> np.ndarray:
        """What the server says of each candidate.

        Raises:
            InvalidInput: not two texts.
            EndpointError: one of the tree in `models.errors`.
        """
        for candidate in candidates:
            check_pair(self.takes, query.modality, candidate.modality)
        scores = np.zeros(len(candidates), np.float32)
        for first in range(0, len(candidates), MOST_DOCUMENTS):
            part = candidates[first : first + MOST_DOCUMENTS]
            scores[first : first + len(part)] = self._ask(query.value, [candidate.value for candidate in part])
        return scores

    def _ask(self, query: str, documents: list[str]) -> list[float]:
        asked = {"model": self.identity.model, "query": query, "documents": documents, "top_n": len(documents)}
        results = self._endpoint.post("/rerank", asked).body.get("results")
        found: dict[int, float] = {}
        for one in results if isinstance(results, list) else []:
            place, score = (one.get("index"), one.get("relevance_score")) if isinstance(one, dict) else (None, None)
            if not _is_index(place, len(documents)) or place in found:
                raise self._malformed(f"the index {place!r}"[:60])
            if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
                raise self._malformed(f"the score {score!r}"[:60])
            if not 0 <= score <= 1:
                raise self._malformed(f"the score {score:g}, which is none from 0 to 1,")
            found[place] = float(score)
        if len(found) != len(documents):
            raise self._malformed(f"{len(found)} scores for {len(documents)} texts")
        return [found[place] for place in range(len(documents))]

    def _malformed(self, what: str) -> AnswerMalformed:
        return AnswerMalformed(
            f"{self._endpoint.address} answered {what} of {self.identity.model}, where one score for each text was "
            f"asked for"
        )


def _is_index(value: Any, n: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < n
