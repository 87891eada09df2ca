"""Context: what enters an LLM's prompt for a question. Specified, not served yet."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sightline.contracts.call import Envelope
from sightline.contracts.fields import (
    VERSION,
    Contract,
    Count,
    Free,
    ItemId,
    ModelName,
    Name,
    Several,
    Share,
    Version,
    Words,
)

Candidates = Annotated[int, Field(ge=1, le=10_000)]
Kept = Annotated[int, Field(ge=1, le=1000)]
Tokens = Annotated[int, Field(ge=1, le=10_000_000)]
Collection = Annotated[str, Field(min_length=1, max_length=200)]


class Budget(Contract):
    """How much room the prompt has."""

    tokens: Tokens = Field(description="Never exceeded, not by one; images count too.")
    tokenizer: ModelName = Field(description="The model whose tokenizer counts them.")


class ContextPayload(Contract):
    """A context job: choose for one question from the job's items, or without any from its collection."""

    version: Version = VERSION
    question: Words = Field(description="The question in words.")
    space: Name = Field(default="current", description="Space that is searched.")
    candidates: Candidates = Field(default=100, description="How many the search takes.")
    where: Free | None = Field(default=None, description="Filter on metadata, as for `nearest`.")
    scorer: ModelName | None = Field(default=None, description="Who scores relevance; null is the default scorer.")
    k: Kept = Field(default=10, description="How many entries are kept at most; possibly none.")
    rule: Literal["threshold", "gap"] = Field(
        default="threshold", description="Where to cut: below a score, or at the largest gap between scores."
    )
    threshold: Share | None = Field(default=None, description="The score; null is the calibrated one.")
    near_duplicate: Share | None = Field(
        default=None, description="Cosine similarity from which entries are one; null keeps both."
    )
    diversity: Share | None = Field(
        default=None, description="Weight of diversity against relevance; null leaves it out."
    )
    budget: Budget | None = Field(default=None, description="Room in the prompt; null is unlimited.")
    order: Literal["relevance", "edges"] = Field(
        default="relevance", description="The best first, or the best at both edges."
    )


class ContextEntry(Contract):
    """One candidate, kept or not."""

    item_id: ItemId = Field(description="The item.")
    external_id: str = Field(description="Its name in its collection.")
    kept: bool = Field(description="Whether it is part of the context.")
    reason: str = Field(description="Why it was kept or dropped.")
    score: Share = Field(description="Relevance.")
    tokens: Count | None = Field(description="What it costs; null if nobody asked.")
    text: str | None = Field(description="Its text, or its caption.")
    uri: str | None = Field(description="Its image.")


class ContextResult(Contract):
    """What a context job leaves: a row of the table `context`."""

    relevant: bool = Field(description="False: nothing in the store answers the question.")
    best_score: Share | None = Field(description="Of all candidates; null without any.")
    threshold: Share | None = Field(description="That was used; null for the rule `gap`.")
    tokens: Count | None = Field(description="Of the whole context; null without a budget.")
    entries: Several[ContextEntry] = Field(description="Kept ones in their order, then those dropped.")
    messages: Several[Free] = Field(description="Ready for a chat model, in OpenAI's content-parts shape.")


class ContextCall(ContextPayload, Envelope):
    """Choose a context now."""

    kind: Literal["context"] = Field(description="The kind of the call.")
    collection: Collection | None = Field(default=None, description="Search in this collection only.")


class ContextReply(ContextResult):
    """The answer to a context call."""

    version: Version = VERSION
