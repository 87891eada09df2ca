"""VeCLIP (Lai et al. 2024, paper 35): the owner's caption keeps its facts, what can be seen gives the structure.

The paper keeps the owner's caption where the language model declines or says too much; here it is never lost, so such
an image is a failure with its reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from models.endpoint.prompts import load_prompt
from models.errors import InvalidInput, ModelError
from models.experts.finding import Found
from models.protocols import Decoding
from models.recipes.asking import Question, ask_each
from models.recipes.drafts import describe_each
from models.recipes.looking import look, told
from models.recipes.recipe import Answer, Known, Subject
from models.recipes.tools import Tools

NAME = "visual-enriched"


class VisualEnriched:
    """Conforms to `models.recipes.Recipe`."""

    def model(self, tools: Tools, params: Any) -> str:
        """The language model."""
        return tools.llm.model

    def versions(self, params: Any) -> dict[str, str]:
        """Of the prompt."""
        return {"prompt": load_prompt(NAME).label}

    def write(self, subjects: Sequence[Subject], tools: Tools, params: Any) -> list[Answer]:
        """One caption of each subject that has one of its own."""
        llm = tools.llm
        seen = describe_each(subjects, tools)
        found = look(subjects, tools, params)
        decoding = Decoding(max_tokens=params.max_tokens, seed=params.seed)
        questions = [_question(*each, decoding) for each in zip(subjects, seen, found, strict=True)]
        answers = ask_each(llm, load_prompt(NAME), NAME, questions)
        return [answer if isinstance(answer, ModelError) else [answer] for answer in answers]


def _question(subject: Subject, seen: Known | ModelError, found: Found, decoding: Decoding) -> Question | ModelError:
    if not subject.own:
        return InvalidInput(
            f"{subject.name} has no caption of its own to enrich: give it one in the metadata under caption, or "
            f"use the recipe fusecap"
        )
    if isinstance(seen, ModelError):
        return seen
    if isinstance(found, ModelError):
        return found
    findings = told(found)
    data = {"lang": subject.lang, "owner": subject.own[0], "seen": seen.text, "concepts": findings}
    return Question(data, decoding, {"own": subject.own[0], "seen": seen.text, "findings": findings})
