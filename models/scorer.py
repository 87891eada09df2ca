"""Scorers: how well candidates fit a query, and the dual encoder as the baseline that others have to beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.errors import InvalidInput, ModelError, NonFinite
from models.protocols import Identity, ImageEncoder, ImageTextEncoder, Modality, Part, PreparedPart, Role, Scorer

__all__ = ["DualEncoderScorer", "score_each"]


def score_each(scorer: Scorer, query: Part, candidates: Sequence[Part]) -> list[float | ModelError]:
    """Score candidates; a bad one gets its error, and the others the scores that they have without it.

    Args:
        scorer: any.
        query: a text or an image.
        candidates: texts and images, any number.

    Returns:
        For each candidate a number in [0, 1], or why there is none.

    Raises:
        ModelError: the query itself cannot be used.
    """
    asked = scorer.prepare(query, "query")
    results: list[float | ModelError] = [InvalidInput("not scored")] * len(candidates)
    ready: dict[int, PreparedPart] = {}
    for position, candidate in enumerate(candidates):
        try:
            part = scorer.prepare(candidate, "candidate")
            check_pair(scorer.takes, asked.modality, part.modality)
            ready[position] = part
        except ModelError as error:
            results[position] = error
    while ready:
        positions = list(ready)
        try:
            scores = scorer.score(asked, list(ready.values()))
        except NonFinite as error:
            for position in [positions[index] for index in error.indices] or positions:
                results[position] = error
                del ready[position]
            continue
        for position, score in zip(positions, scores, strict=True):
            results[position] = float(score)
        break
    return results


def check_pair(takes: frozenset[tuple[Modality, Modality]], query: Modality, candidate: Modality) -> None:
    """Raise InvalidInput if a scorer cannot compare the two."""
    if (query, candidate) not in takes:
        known = ", ".join(f"{a} with {b}" for a, b in sorted(takes))
        raise InvalidInput(f"a {query} query cannot be compared with a {candidate} here; this scorer compares {known}")


class DualEncoderScorer:
    """The cosine of two vectors as a score: (1 + cosine) / 2.

    It is what a search sorts by already, so a reranker is worth its time only where it beats this. The map is monotone
    and keeps the order of the cosines; the number is no probability: unrelated pairs of CLIP models lie near 0.6.

    Args:
        encoder: one that takes texts compares all pairs of images and texts, else images alone.
    """

    def __init__(self, encoder: ImageEncoder) -> None:
        self._encoder = encoder
        passport = encoder.passport
        self.identity = Identity(
            model=passport.model,
            revision=passport.revision,
            kind=f"{passport.kind} cosine",
            weights=passport.weights,
            tokenizer=passport.tokenizer,
            preprocessing=passport.preprocessing,
            dtype=passport.dtype,
            source=passport.source,
            libraries=dict(passport.libraries),
        )
        self.device = encoder.device
        modalities: list[Modality] = ["image", "text"] if hasattr(encoder, "encode_texts") else ["image"]
        self.takes: frozenset[tuple[Modality, Modality]] = frozenset((a, b) for a in modalities for b in modalities)

    def prepare(self, part: Part, role: Role) -> PreparedPart:
        """Resize an image or tokenise a text; both roles are prepared alike.

        Raises:
            InvalidInput: an empty text, one that is not Unicode, not an RGB image, or a modality it does not take.
        """
        if isinstance(part, np.ndarray):
            return PreparedPart("image", self._encoder.prepare_image(part))
        if ("text", "text") not in self.takes:
            raise InvalidInput(f"{self.identity.model} takes no texts; give an image as the {role}")
        if not part.strip():
            raise InvalidInput(f"the text of the {role} is empty; leave it out")
        encoder: ImageTextEncoder = self._encoder  # type: ignore[assignment]
        text = encoder.prepare_text(part)
        return PreparedPart("text", text, text.truncated, text.tokens)

    def score(self, query: PreparedPart, candidates: Sequence[PreparedPart]) -> np.ndarray:
        """(1 + cosine) / 2 of each candidate with the query.

        Raises:
            NonFinite: a vector of NaN or infinity, or of no length; all candidates are named if it is the query's.
        """
        if not candidates:
            return np.empty(0, np.float32)
        parts = [query, *candidates]
        vectors = np.zeros((len(parts), self._encoder.dim), np.float32)
        bad: set[int] = set()
        for modality in ("image", "text"):
            places = [place for place, part in enumerate(parts) if part.modality == modality]
            bad.update(self._encode(modality, parts, places, vectors))
        norms = np.linalg.norm(vectors, axis=1)
        bad.update(np.flatnonzero(~(norms > 0) | ~np.isfinite(norms)).tolist())
        if bad:
            named = range(len(candidates)) if 0 in bad else sorted(place - 1 for place in bad)
            raise NonFinite(list(named), "scores", self.identity.dtype)
        units = vectors / norms[:, None]
        # Summed row by row: a matrix product may add in another order for another number of rows.
        cosines = (units[1:] * units[0]).sum(axis=1)
        return np.clip((1 + cosines) / 2, 0, 1).astype(np.float32)

    def _encode(
        self, modality: str, parts: Sequence[PreparedPart], places: Sequence[int], vectors: np.ndarray
    ) -> list[int]:
        """Fill in the vectors of one modality; returns the places whose vectors are not finite."""
        values = [parts[place].value for place in places]
        try:
            if modality == "image":
                vectors[places] = self._encoder.encode_images(values)
            elif values:
                encoder: ImageTextEncoder = self._encoder  # type: ignore[assignment]
                vectors[places] = encoder.encode_texts(values)
        except NonFinite as error:
            for place in places:
                vectors[place] = 1.0
            return [places[index] for index in error.indices]
        return []
