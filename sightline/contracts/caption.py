"""Caption: stored images get texts."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sightline.contracts.fields import (
    VERSION,
    Contract,
    Digest,
    Finite,
    Free,
    ItemId,
    Language,
    ModelName,
    Name,
    Recipe,
    Version,
)


class CaptionPayload(Contract):
    """A caption job: each of its images gets captions by one recipe."""

    version: Version = VERSION
    recipe: Recipe = Field(description="Name of the recipe, as `fusecap` or `best-of-n`.")
    params: Free = Field(default_factory=dict, description="Parameters of the recipe, which checks them.")
    model: ModelName | None = Field(
        default=None, description="The captioner, as the workers are set up for it; null is theirs."
    )
    lang: Language = Field(default="en", description="Language of the captions, a BCP 47 tag.")
    space: Name = Field(default="current", description="Space whose encoder scores the captions.")
    embed: bool = Field(
        default=False, description="Encode the captions as texts of the space, too, in a job that follows."
    )


class CaptionResult(Contract):
    """What a caption job leaves for each caption: a row of the view `captions`."""

    item_id: ItemId = Field(description="The image.")
    external_id: str = Field(description="Its name in its collection.")
    recipe: Recipe = Field(description="The recipe; `own` is the user's own caption.")
    model: ModelName | None = Field(description="What wrote it; null for the user's own.")
    params_digest: Digest | None = Field(
        description="sha256, in hex, of the parameters and of what else decides the words: captions of a sweep stay "
        "apart. Null for the user's own."
    )
    params: Free = Field(description="The parameters, defaults included.")
    lang: Language = Field(description="The language.")
    n: Annotated[int, Field(ge=0, le=32_767)] = Field(description="Number of the caption among those of one recipe.")
    text: str = Field(description="The caption.")
    score: Finite | None = Field(description="The recipe's own score, higher is better; null if it gives none.")
    alignment: Finite | None = Field(
        description="Cosine of the vectors of image and caption in the space; null where the space takes no texts."
    )
    match: Finite | None = Field(description="Probability, by a matcher, that the caption is true of the image.")
    negative: bool = Field(description="It is wrong on purpose.")
    selected: bool = Field(description="`select_best` marked it: one caption for each image at most.")
    truncated: bool = Field(description="It was cut at its longest.")
    stale: bool = Field(description="The image has changed since.")
    provenance: Free = Field(description="What it was made from, and how.")
