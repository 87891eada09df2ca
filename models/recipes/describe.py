"""What the captioner says of an image, and no more: the plain caption that every other recipe has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from models.errors import ModelError
from models.protocols import Caption
from models.recipes.plain import captions_of, decoding_of
from models.recipes.recipe import Answer, Subject, Written
from models.recipes.tools import Tools


class Describe:
    """One caption for each image: greedy, by beam search, or drawn."""

    def model(self, tools: Tools, params: Any) -> str:
        """The captioner."""
        return tools.captioner.identity.model

    def versions(self, params: Any) -> dict[str, str]:
        """Nothing else."""
        return {}

    def write(self, subjects: Sequence[Subject], tools: Tools, params: Any) -> list[Answer]:
        """See `models.recipes.recipe.Recipe`."""
        return [_written(found) for found in captions_of(subjects, tools, params.prompt, decoding_of(params))]


def _written(found: Caption | ModelError) -> Answer:
    if isinstance(found, ModelError):
        return found
    scores = {} if found.score is None else {"likelihood": found.score}
    return [Written(found.text, found.score, scores, truncated=found.truncated, provenance={"tokens": found.tokens})]
