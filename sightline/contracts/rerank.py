"""Rerank: a stronger scorer orders candidates anew."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sightline.contracts.call import CallError, Envelope
from sightline.contracts.fields import (
    VERSION,
    Contract,
    Count,
    Free,
    ItemId,
    ModelName,
    Name,
    OneOf,
    Several,
    Share,
    Version,
    Words,
)

Rank = Annotated[int, Field(ge=1, le=10_000)]
Scorer = ModelName
Collection = Annotated[str, Field(min_length=1, max_length=200)]
MAX_CANDIDATES = 1000
"""Of one call."""


class RerankPayload(Contract):
    """A rerank job: the candidates are its items, or without any all of its collection."""

    version: Version = VERSION
    query: Words = Field(description="The query in words.")
    scorer: Scorer | None = Field(default=None, description="Name of the scorer; null is the default one.")
    space: Name = Field(default="current", description="Space whose stored vectors a scorer may use.")


class RerankResult(Contract):
    """What a rerank job leaves for each candidate: a row of the table `ranking`."""

    item_id: ItemId = Field(description="The candidate.")
    score: Share = Field(description="Relevance, calibrated where the scorer was.")
    raw_score: Share = Field(description="As the scorer gave it; the order is by this.")
    scorer: Scorer = Field(description="The scorer.")
    scorer_version: str = Field(description="Which weights and rules it had.")
    calibration_id: ItemId | None = Field(description="The calibration of the score; null where there is none.")


class Candidate(OneOf):
    """One thing to score: a stored item, or content of the caller's."""

    item_id: ItemId | None = Field(default=None, description="Id of a stored item.")
    text: str | None = Field(default=None, description="A text.")
    image: str | None = Field(default=None, description="The bytes of an image file, in base64.")


class RerankRequest(Contract):
    """What a rerank call asks."""

    kind: Literal["rerank"] = Field(description="The kind of the call.")
    version: Version = VERSION
    query: Words = Field(description="The query in words.")
    candidates: Annotated[Several[Candidate], Field(min_length=1, max_length=MAX_CANDIDATES)] = Field(
        description="What to order; of equal scores the one given first is first."
    )
    scorer: Scorer | None = Field(default=None, description="Name of the scorer; null is the default one.")
    space: Name = Field(default="current", description="Space whose stored vectors a scorer may use.")
    collection: Collection | None = Field(
        default=None, description="Collection whose calibration turns scores into probabilities; null leaves them raw."
    )
    threshold: Share | None = Field(
        default=None, description="Candidates below it are left out. Refused without a calibration."
    )
    k: Rank = Field(default=10, description="How many are kept.")


class RerankCall(RerankRequest, Envelope):
    """Rerank candidates now."""


class Ranked(Contract):
    """One candidate with its score."""

    candidate: Count = Field(description="Its number in the call, from 0.")
    score: Share = Field(description="Relevance, calibrated where there is a calibration.")
    raw_score: Share = Field(description="As the scorer gave it; the order is by this.")
    note: str | None = Field(default=None, description="What of the candidate was not read.")


class RerankReply(Contract):
    """The answer to a rerank call."""

    version: Version = VERSION
    ranking: Several[Ranked] = Field(description="The candidates that are kept, the most relevant first.")
    errors: Several[CallError] = Field(description="Candidates that could not be scored; `item` is their number.")
    dropped: Count = Field(description="Candidates that were scored and left out, by `threshold` or `k`.")
    notes: Several[str] = Field(description="What of the query was not read.")
    scorer: Scorer = Field(description="The scorer.")
    scorer_version: str = Field(description="Which weights and rules it had.")
    calibration_id: ItemId | None = Field(description="The calibration of the scores; null: they are raw.")
    seconds: Free = Field(description="How long each stage took, by its name.")
