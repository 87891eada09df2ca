"""DreamLIP (Zheng et al. 2024, paper 5): a long description, and its sentences as texts of their own.

A query matches one thing of an image better than all of it: the paper trains with the sentences as positives of their
own; here they become text items under the image. One long enumeration, as the bundled captioner writes, is split at its
commas. Number 0 is the whole, the sentences follow it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from models.checkpoint import CAPTIONER_ID
from models.endpoint.prompts import load_prompt
from models.errors import InvalidInput, ModelError
from models.protocols import Caption, Captioner, Decoding
from models.recipes.plain import captions_of
from models.recipes.recipe import Answer, Subject, Written
from models.recipes.tools import Tools

NAME = "long"
_SENTENCE: Final = re.compile(r"(?<=[.!?。\uff01\uff1f])\s+|\n+")
_CLAUSE: Final = re.compile(r"\s*[,;:]\s+")
_ENUMERATES: Final = 3


class Long:
    """Conforms to `models.recipes.Recipe`."""

    def model(self, tools: Tools, params: Any) -> str:
        """The captioner."""
        return tools.captioner.identity.model

    def versions(self, params: Any) -> dict[str, str]:
        """Of the prompt."""
        return {"prompt": load_prompt(NAME).label}

    def write(self, subjects: Sequence[Subject], tools: Tools, params: Any) -> list[Answer]:
        """The description and its sentences, in their order."""
        decoding = Decoding(max_tokens=params.max_tokens, seed=params.seed)
        found = captions_of(subjects, tools, _prompt(tools.captioner), decoding)
        return [one if isinstance(one, ModelError) else _written(one, params.sentences) for one in found]


def _prompt(captioner: Captioner) -> str:
    """What asks a captioner for everything: words for a chat model, a token for the bundled one, nothing for others."""
    if captioner.device == "remote":
        return load_prompt(NAME).task
    if captioner.identity.model == CAPTIONER_ID:
        from models.scenes.tokens import FULL

        return FULL
    return ""


def _written(caption: Caption, most: int) -> Answer:
    sentences = split(caption.text)
    if not sentences:
        return InvalidInput("the captioner described the image with no word")
    about = {"sentences": len(sentences), "kept": min(len(sentences), most)}
    whole = Written(
        caption.text, score=caption.score, truncated=caption.truncated, provenance=about, as_item=len(sentences) == 1
    )
    if len(sentences) == 1:
        return [whole]
    if caption.truncated:  # its last sentence ends in the middle
        sentences = sentences[:-1]
    kept = enumerate(sentences[:most], 1)
    return [whole, *(Written(text, provenance={"sentence": place}, as_item=True) for place, text in kept)]


def split(text: str) -> list[str]:
    """The sentences of a text; the parts of one sentence that enumerates at least three."""
    sentences = [part.strip() for part in _SENTENCE.split(text) if part.strip(" .!?")]
    if len(sentences) == 1:
        clauses = [part.strip(" .") for part in _CLAUSE.split(sentences[0]) if part.strip(" .")]
        if len(clauses) >= _ENUMERATES:
            return clauses
    return sentences
