"""The recipes that need a captioner and no language model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sightline.contracts.fields import Contract, Several
from sightline.recipes.recipe import RecipeSpec

MAX_WORDS = 256
"""Most tokens that a caption may be asked to have."""

Prompt = Annotated[str, Field(max_length=500)]
MaxTokens = Annotated[int, Field(ge=1, le=MAX_WORDS)]
Temperature = Annotated[float, Field(ge=0, le=10)]
TopP = Annotated[float, Field(ge=0.01, le=1)]
Wrong = Literal["count", "colour", "relation"]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]

_PROMPT = "How every caption begins, or what is asked about the image; empty is the captioner's plain mode."
_MAX_TOKENS = "Tokens after which a caption is cut, and marked as truncated."


class DescribeParams(Contract):
    """How the captioner chooses its words: greedily, by beam search, or by sampling."""

    prompt: Prompt = Field(default="", description=_PROMPT)
    max_tokens: MaxTokens = Field(default=64, description=_MAX_TOKENS)
    beams: Annotated[int, Field(ge=1, le=16)] = Field(default=1, description="Width of the beam search; 1 is none.")
    temperature: Temperature = Field(default=0.0, description="0 takes the likeliest word; above it, words are drawn.")
    top_p: TopP = Field(default=1.0, description="Draw from the likeliest words that reach this probability.")
    seed: Seed = Field(default=0, description="Of the drawing.")


class GuidedParams(Contract):
    """How far the image's own words are preferred to those that any image might have."""

    gamma: Annotated[float, Field(ge=1, le=10)] = Field(
        default=1.5, description="1 is plain captioning; 1.5 to 2 more specific; above 3 ungrammatical."
    )
    prompt: Prompt = Field(default="", description=_PROMPT)
    max_tokens: MaxTokens = Field(default=64, description=_MAX_TOKENS)
    temperature: Temperature = Field(default=0.0, description="0 takes the likeliest word; above it, words are drawn.")
    top_p: TopP = Field(default=1.0, description="Draw from the likeliest words that reach this probability.")
    seed: Seed = Field(default=0, description="Of the drawing.")


class BestOfNParams(Contract):
    """How many captions are drawn, and by what the one that stays is chosen."""

    n: Annotated[int, Field(ge=2, le=32)] = Field(default=8, description="Captions to draw, the likeliest included.")
    k: Annotated[int, Field(ge=1, le=100)] = Field(default=20, description="Nearest stored images to be told from.")
    keep: Annotated[int, Field(ge=1, le=32)] = Field(default=1, description="How many are stored, the best first.")
    temperature: Annotated[float, Field(ge=0.01, le=10)] = Field(default=0.7, description="Of the drawing.")
    top_p: TopP = Field(default=0.95, description="Draw from the likeliest words that reach this probability.")
    sharpness: Annotated[float, Field(ge=1, le=1000)] = Field(
        default=50.0, description="What cosines are multiplied by before the softmax over the image and its neighbours."
    )
    grammar: Annotated[float, Field(ge=0, le=10)] = Field(
        default=1.0, description="Weight of the grammar score: the captioner's own likelihood of the words in order."
    )
    repetition: Annotated[float, Field(ge=0, le=10)] = Field(
        default=1.0, description="Weight of the share of words and word pairs that say nothing new."
    )
    length: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.02, description="Taken off for each word more than the likeliest caption has."
    )
    prompt: Prompt = Field(default="", description=_PROMPT)
    max_tokens: MaxTokens = Field(default=64, description=_MAX_TOKENS)
    seed: Seed = Field(default=0, description="Of the first drawn caption; each other one has the next.")


class CounterfactualParams(Contract):
    """What is made wrong."""

    kinds: Annotated[Several[Wrong], Field(min_length=1, max_length=3)] = Field(
        default=("count", "colour", "relation"), description="What to change."
    )
    each: Annotated[int, Field(ge=1, le=8)] = Field(default=1, description="Most wrong captions of each kind.")
    sources: Annotated[Several[str], Field(max_length=20)] = Field(
        default=("own",),
        description="Recipes whose stored captions are changed, `own` is the user's; where an image has none of them, "
        "it is described first.",
    )
    margin: Annotated[float, Field(ge=-1, le=1)] = Field(
        default=0.0,
        description="How much better the true caption must match the image, in matcher probability; what matches as "
        "well as the truth may be true, and is left out.",
    )
    seed: Seed = Field(default=0, description="Of the choice among possible changes.")


CAPTION_RECIPES = (
    RecipeSpec(
        "describe", "caption", (), "what the captioner says: greedily, by beam search or by sampling",
        DescribeParams, ("captioner",), "one caption", repeatable=True,
    ),
    RecipeSpec(
        "guided", "caption", (30,), "classifier-free guidance: words that this image has and others have not",
        GuidedParams, ("captioner",), "one caption of two branches", repeatable=True,
    ),
    RecipeSpec(
        "best-of-n", "caption", (38, 64), "of n drawn captions the one that best tells the image from its neighbours",
        BestOfNParams, ("captioner", "encoder", "neighbours"), "n captions and n text vectors",
    ),
    RecipeSpec(
        "counterfactual", "caption", (28, 26), "captions wrong by one count, colour or relation: negatives to train on",
        CounterfactualParams, ("matcher",), "a match for each changed caption; one caption where none is stored",
        uses=("captioner",),
    ),
)  # fmt: skip
