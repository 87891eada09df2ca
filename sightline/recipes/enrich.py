"""The recipes that make use of vision experts, a language model, or what was written before."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sightline.contracts.fields import Contract, Several
from sightline.recipes.recipe import RecipeSpec

Expert = Literal["detector", "ocr", "attributes", "colours"]
Sources = Annotated[Several[str], Field(max_length=20)]
Experts = Annotated[Several[Expert], Field(max_length=4)]
MaxTokens = Annotated[int, Field(ge=1, le=4096)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Temperature = Annotated[float, Field(ge=0, le=10)]
Words = Annotated[str, Field(min_length=1, max_length=200)]

_SOURCES = "Recipes whose stored captions are the draft, the first that there is; `own` is the user's."
_DRAFT = _SOURCES + " Where an image has none of them, it is described first."
_EXPERTS = (
    "Who looks at the image: `detector` (the bundled one, for rendered scenes, or SIGHTLINE_DETECTOR_MODEL), `ocr`, "
    "`attributes` of the detected things, `colours`."
)
_LEAST = "Score under which a thing or attribute is not believed; null is the expert's own: 0.7 bundled, 0.2 OWLv2."
_LABELS = "What an OWLv2 detector looks for; the bundled one knows its own things."
_ATTRIBUTES = "Words of which one holds of a thing, separated by commas; one text for each such choice."
_TOKENS = "Tokens after which the language model is cut; what is cut is no caption but a failure."
_PATTERNS = ("plain, striped, dotted, outlined",)
_THINGS = (
    "person", "dog", "cat", "bird", "horse", "car", "bicycle", "bus", "boat", "tree", "flower", "house", "chair",
    "table", "bed", "lamp", "book", "bottle", "cup", "plate", "bag", "shoe", "shirt", "dress", "hat", "phone",
    "computer", "sign",
)  # fmt: skip


class _Looking(Contract):
    """Whom to ask about the image."""

    least: Annotated[float, Field(ge=0, le=1)] | None = Field(default=None, description=_LEAST)
    labels: Annotated[Several[Words], Field(min_length=1, max_length=200)] = Field(default=_THINGS, description=_LABELS)
    attributes: Annotated[Several[Words], Field(max_length=20)] = Field(default=_PATTERNS, description=_ATTRIBUTES)


class FuseCapParams(_Looking):
    """What is fused with the draft, and by whom."""

    fuser: Literal["auto", "llm", "rules"] = Field(
        default="auto", description="Who fuses: the language model, the built-in rules, or the first that there is."
    )
    experts: Annotated[Experts, Field(min_length=1)] = Field(default=("detector", "ocr"), description=_EXPERTS)
    sources: Sources = Field(default=("own", "describe"), description=_DRAFT)
    max_tokens: MaxTokens = Field(default=256, description=_TOKENS)
    seed: Seed = Field(default=0, description="Of the language model.")


class RewriteParams(Contract):
    """How often a caption is said anew, and how freely."""

    n: Annotated[int, Field(ge=1, le=16)] = Field(default=4, description="Rewrites of each image, a question for each.")
    sources: Annotated[Sources, Field(min_length=1)] = Field(default=("own", "describe"), description=_SOURCES)
    temperature: Temperature = Field(default=0.9, description="Of the drawing; 0 takes the likeliest word.")
    top_p: Annotated[float, Field(ge=0.01, le=1)] = Field(default=0.95, description="Draw from the likeliest words.")
    max_tokens: MaxTokens = Field(default=256, description=_TOKENS)
    seed: Seed = Field(default=0, description="Of the first rewrite; each other one has the next.")


class VisualEnrichedParams(_Looking):
    """What the user's own caption is fused with."""

    experts: Experts = Field(default=("detector",), description=_EXPERTS)
    max_tokens: MaxTokens = Field(default=256, description=_TOKENS)
    seed: Seed = Field(default=0, description="Of the language model.")


class LongParams(Contract):
    """How long the description is, and in how many sentences it is kept."""

    sentences: Annotated[int, Field(ge=1, le=50)] = Field(
        default=6, description="Most sentences that become texts of their own; all are in the whole description."
    )
    max_tokens: MaxTokens = Field(default=512, description="Tokens after which the description is cut.")
    seed: Seed = Field(default=0, description="Of the captioner, where it draws.")


class PersonalParams(_Looking):
    """Whose way of writing is followed."""

    user: Annotated[str, Field(max_length=200)] = Field(
        default="", description="Whose: images have it in their metadata under `user`. It must be given."
    )
    examples: Annotated[int, Field(ge=1, le=50)] = Field(
        default=10, description="Most of the user's earlier captions that are shown to the language model."
    )
    experts: Experts = Field(default=("detector",), description=_EXPERTS)
    sources: Sources = Field(default=("describe",), description=_DRAFT)
    max_tokens: MaxTokens = Field(default=256, description=_TOKENS)
    seed: Seed = Field(default=0, description="Of the language model.")


ENRICH_RECIPES = (
    RecipeSpec(
        "fusecap", "caption", (21,), "a draft and what vision experts see, fused by a language model or by rules",
        FuseCapParams, (), "each expert once, one question with a language model; one caption where none is stored",
        uses=("captioner", "detector", "ocr", "attributes", "llm"),
    ),
    RecipeSpec(
        "rewrite", "caption", (51,), "a stored caption said anew n times by a language model",
        RewriteParams, ("llm",), "n questions",
    ),
    RecipeSpec(
        "visual-enriched", "caption", (35,), "the user's own caption and what can be seen, in one sentence",
        VisualEnrichedParams, ("llm", "captioner"), "one caption, each expert once, one question",
        uses=("detector", "ocr", "attributes"),
    ),
    RecipeSpec(
        "long", "caption", (5,), "a long description, and its sentences as texts of their own under the image",
        LongParams, ("captioner",), "one long caption",
    ),
    RecipeSpec(
        "personal", "caption", (32,), "what can be seen, in the words of a user as earlier captions show them",
        PersonalParams, ("llm", "earlier"), "each expert once, one question; one caption where none is stored",
        uses=("captioner", "detector", "ocr", "attributes"),
    ),
)  # fmt: skip
