"""Rerank: a stronger scorer orders candidates anew. Specified, not served yet."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sightline.contracts.call import CallError, Envelope
from sightline.contracts.fields import (
    VERSION,
    Contract,
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
MAX_CANDIDATES = 1000
"""Of one call."""


class RerankPayload(Contract):
    """A rerank job: the candidates are its items, or without any the nearest of its collection."""

    version: Version = VERSION
    query: Words = Field(description="The query in words.")
    scorer: Scorer | None = Field(default=None, description="Name of the scorer; null is the default one.")
    params: Free = Field(default_factory=dict, description="Parameters of the scorer, which checks them.")
    space: Name = Field(default="current", description="Space that candidates are searched in.")
    candidates: Rank = Field(default=100, description="How many candidates a search takes.")
    k: Rank = Field(default=10, description="How many are kept.")


class RerankResult(Contract):
    """What a rerank job leaves for each candidate that is kept: a row of the table `ranking`."""

    item_id: ItemId = Field(description="The candidate.")
    rank: Rank = Field(description="Its place, from 1.")
    score: Share = Field(description="Relevance, calibrated where the scorer was.")
    scorer: Scorer = Field(description="The scorer.")
    scorer_version: str = Field(description="Its revision.")


class Candidate(OneOf):
    """One thing to score: a stored item, or content of the caller's."""

    item_id: ItemId | None = Field(default=None, description="Id of a stored item.")
    text: str | None = Field(default=None, description="A text.")
    image: str | None = Field(default=None, description="The bytes of an image file, in base64.")


class RerankCall(Envelope):
    """Rerank candidates now."""

    kind: Literal["rerank"] = Field(description="The kind of the call.")
    version: Version = VERSION
    query: Words = Field(description="The query in words.")
    candidates: Annotated[Several[Candidate], Field(min_length=1, max_length=MAX_CANDIDATES)] = Field(
        description="What to order."
    )
    scorer: Scorer | None = Field(default=None, description="Name of the scorer; null is the default one.")
    params: Free = Field(default_factory=dict, description="Parameters of the scorer, which checks them.")
    space: Name = Field(default="current", description="Space whose stored vectors a scorer may use.")
    k: Rank = Field(default=10, description="How many are kept.")


class Ranked(Contract):
    """One candidate with its score."""

    candidate: Annotated[int, Field(ge=0)] = Field(description="Its number in the call, from 0.")
    score: Share = Field(description="Relevance, calibrated where the scorer was.")


class RerankReply(Contract):
    """The answer to a rerank call."""

    version: Version = VERSION
    ranking: Several[Ranked] = Field(description="The candidates that are kept, the most relevant first.")
    errors: Several[CallError] = Field(description="Candidates that could not be scored; `item` is their number.")
    scorer: Scorer = Field(description="The scorer.")
    scorer_version: str = Field(description="Its revision.")
    seconds: Free = Field(description="How long each stage took, by its name.")
