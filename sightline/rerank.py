"""Reranking: a stronger scorer puts candidates in order, now, on a worker."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sightline.broker import as_reply
from sightline.errors import CallFailed, UsageError
from sightline.query import check_search, image_bytes_of
from sightline.results import Hit, Hits

if TYPE_CHECKING:
    from sightline.connection import Connection

QUEUE = "rerank"
RerankCandidate = int | str | bytes | os.PathLike[str] | Hit
"""A stored item by its id or hit; a text; an image by its bytes or path (a `Path`, for a string is a text)."""


@dataclass(frozen=True)
class Ranked:
    """One candidate with its score.

    Args:
        candidate: its place among the candidates, from 0.
        score: relevance in [0, 1]: a probability where the ranking is calibrated.
        raw_score: as the scorer gave it; the order is by this.
        note: what of it was not read.
    """

    candidate: int
    score: float
    raw_score: float
    note: str | None = None


@dataclass(frozen=True)
class RankError:
    """Why a candidate has no score."""

    candidate: int
    error_class: str
    message: str


class Ranking(list[Ranked]):
    """Candidates, the most relevant first.

    Attributes:
        errors: candidates that could not be scored.
        dropped: how many were scored and left out, by `threshold` or `k`.
        notes: what of the query was not read.
        scorer, scorer_version: who gave the scores.
        calibration_id: the row of `sightline.calibration` that made them probabilities; None: they are raw.
        seconds: how long each stage took on the worker, by its name.
    """

    def __init__(
        self, ranked: Iterable[Ranked], errors: Sequence[RankError] = (), dropped: int = 0, notes: Sequence[str] = (),
        scorer: str = "", scorer_version: str = "", calibration_id: int | None = None,
        seconds: dict[str, float] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(ranked)
        self.errors = list(errors)
        self.dropped = dropped
        self.notes = list(notes)
        self.scorer = scorer
        self.scorer_version = scorer_version
        self.calibration_id = calibration_id
        self.seconds = seconds or {}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "ranking": [vars(one) for one in self], "errors": [vars(error) for error in self.errors],
            "dropped": self.dropped, "notes": self.notes, "scorer": self.scorer, "scorer_version": self.scorer_version,
            "calibration_id": self.calibration_id, "seconds": self.seconds,
        }  # fmt: skip


def rerank(
    client: Connection,
    query: str,
    candidates: Sequence[RerankCandidate],
    *,
    scorer: str | None = None,
    k: int | None = None,
    collection: str | None = None,
    threshold: float | None = None,
    space: str = "current",
    timeout: float | None = None,
) -> Ranking:
    """See `Sightline.rerank`."""
    from sightline.contracts.problem import validated
    from sightline.contracts.rerank import RerankReply, RerankRequest

    if isinstance(candidates, (str, bytes)) or not isinstance(candidates, Sequence):
        raise UsageError(f"candidates must be a list, not a {type(candidates).__name__}")
    if not candidates:
        return Ranking([])
    asked = {
        "kind": "rerank", "query": query,
        "candidates": [_candidate(client, one, number) for number, one in enumerate(candidates)],
        "scorer": scorer, "space": space, "collection": collection, "threshold": threshold,
        "k": len(candidates) if k is None else k,
    }  # fmt: skip
    request = validated(RerankRequest, asked, "call of rerank").model_dump(exclude_unset=True)
    seconds = client.settings.rerank_seconds if timeout is None else timeout
    reply = as_reply(RerankReply, client.broker.call(f"{QUEUE}.interactive", request, seconds))
    return Ranking(
        (Ranked(one.candidate, one.score, one.raw_score, one.note) for one in reply.ranking),
        [RankError(error.item or 0, error.error_class, error.message) for error in reply.errors],
        reply.dropped, reply.notes, reply.scorer, reply.scorer_version, reply.calibration_id,
        {stage: float(value) for stage, value in reply.seconds.items() if isinstance(value, (int, float))},
    )  # fmt: skip


def check_reranked(
    text: str | None, vector: object, k: object, where: Mapping[str, Any] | None, candidates: object
) -> str:
    """The query in words. Raises UsageError where a search cannot be reranked, before anything is asked."""
    from sightline.contracts.rerank import MAX_CANDIDATES

    if text is None:
        raise UsageError("reranking takes a query in words: give text, or leave rerank out")
    check_search(text, vector, k, where)
    if isinstance(candidates, bool) or not isinstance(candidates, int) or not 1 <= candidates <= MAX_CANDIDATES:
        raise UsageError(f"candidates must be a whole number from 1 to {MAX_CANDIDATES:,}, not {candidates!r:.40}")
    return text


def reranked(
    client: Connection, query: str, hits: Hits, k: int, scorer: str | None, collection: str | None,
    threshold: float | None, space: str,
) -> Hits:  # fmt: skip
    """The k best of a search's hits, in the order of a scorer; those that it could not score are named in `notes`.

    Raises:
        CallFailed: no hit could be scored.
    """
    if not hits:
        return hits
    ranking = rerank(client, query, hits, scorer=scorer, k=k, collection=collection, threshold=threshold, space=space)
    if len(ranking.errors) == len(hits):
        raise CallFailed(f"none of {len(hits)} hits could be scored: {ranking.errors[0].message}")
    best = (replace(hits[one.candidate], relevance=one.score) for one in ranking)
    notes = [*hits.notes, *ranking.notes]
    notes += [f"not scored, so left out: {error.error_class}: {error.message}" for error in ranking.errors]
    found = Hits(best, hits.status, notes)
    found.ranking = ranking
    return found


def _candidate(client: Connection, candidate: RerankCandidate, number: int) -> dict[str, Any]:
    """One candidate as the call takes it. Raises UsageError, with its number: what is here can be mended here."""
    if isinstance(candidate, Hit):
        return {"item_id": candidate.item_id}
    if isinstance(candidate, bool):
        raise UsageError(f"candidate {number} must be an item id, a text, bytes or a path, not {candidate}")
    if isinstance(candidate, int):
        return {"item_id": candidate}
    if isinstance(candidate, str):
        return {"text": candidate}
    if isinstance(candidate, (bytes, bytearray, memoryview, os.PathLike)):
        try:
            content = image_bytes_of(candidate, client.settings)
        except UsageError as error:
            raise UsageError(f"candidate {number}: {error}") from error
        return {"image": base64.b64encode(content).decode()}
    raise UsageError(
        f"candidate {number} must be an item id, a text, bytes or a path, not a {type(candidate).__name__}"
    )
