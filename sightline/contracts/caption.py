"""Caption: stored images get texts. Specified, not served yet."""

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
    model: ModelName | None = Field(default=None, description="The captioner; null is the recipe's own default.")
    lang: Language = Field(default="en", description="Language of the captions, a BCP 47 tag.")
    space: Name = Field(default="current", description="Space whose encoder scores the captions.")
    embed: bool = Field(default=False, description="Encode the captions as texts of the space, too.")


class CaptionResult(Contract):
    """What a caption job leaves for each caption: a row of the table `caption`."""

    item_id: ItemId = Field(description="The image.")
    recipe: Recipe = Field(description="The recipe.")
    model: ModelName = Field(description="The captioner.")
    params_digest: Digest = Field(description="sha256 of the parameters, in hex: captions of a sweep stay apart.")
    params: Free = Field(description="The parameters, defaults included.")
    lang: Language = Field(description="The language.")
    n: Annotated[int, Field(ge=0, le=32_767)] = Field(description="Number of the caption among those of one recipe.")
    text: str = Field(description="The caption.")
    score: Finite | None = Field(description="How well it fits its image; null if it was not scored.")
