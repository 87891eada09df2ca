"""FuseCap (Rotstein et al. 2024, paper 21): a draft and what vision experts see become one caption.

The paper fuses with a fine-tuned Flan-T5 that was never published; here any language model of an endpoint does, or the
rules of `models.recipes.rules`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from models.endpoint.prompts import load_prompt
from models.errors import ModelError
from models.experts.finding import Finding, Found
from models.protocols import Decoding
from models.recipes import rules
from models.recipes.asking import Question, ask_each
from models.recipes.drafts import draft_each
from models.recipes.looking import look, told
from models.recipes.recipe import Answer, Known, Subject, Written
from models.recipes.tools import Tools

NAME = "fusecap"


class FuseCap:
    """Conforms to `models.recipes.Recipe`."""

    def model(self, tools: Tools, params: Any) -> str:
        """The language model, or "rules"."""
        return tools.llm.model if _by_llm(tools, params) else "rules"

    def versions(self, params: Any) -> dict[str, str]:
        """Of the prompt and of the rules."""
        return {"prompt": load_prompt(NAME).label, "rules": rules.VERSION}

    def write(self, subjects: Sequence[Subject], tools: Tools, params: Any) -> list[Answer]:
        """One caption of each subject."""
        by_llm = _by_llm(tools, params)
        drafts = draft_each(subjects, tools, params.sources)
        seen = look(subjects, tools, params)
        if not by_llm:
            return [self._ruled(draft, found) for draft, found in zip(drafts, seen, strict=True)]
        decoding = Decoding(max_tokens=params.max_tokens, seed=params.seed)
        questions = [
            _question(subject, draft, found, decoding)
            for subject, draft, found in zip(subjects, drafts, seen, strict=True)
        ]
        answers = ask_each(tools.llm, load_prompt(NAME), NAME, questions)
        return [answer if isinstance(answer, ModelError) else [answer] for answer in answers]

    def _ruled(self, draft: Known | ModelError, found: Found) -> Answer:
        if isinstance(draft, ModelError):
            return draft
        if isinstance(found, ModelError):
            return found
        return [Written(rules.fuse(draft.text, found), provenance={**_kept(draft, found), "fuser": rules.VERSION})]


def _by_llm(tools: Tools, params: Any) -> bool:
    if params.fuser == "auto":
        return tools.has("llm")
    return bool(params.fuser == "llm")


def _question(subject: Subject, draft: Known | ModelError, found: Found, decoding: Decoding) -> Question | ModelError:
    if isinstance(draft, ModelError):
        return draft
    if isinstance(found, ModelError):
        return found
    data = {"lang": subject.lang, "draft": draft.text, "findings": told(found)}
    return Question(data, decoding, {**_kept(draft, found), "fuser": "llm"})


def _kept(draft: Known, found: list[Finding]) -> dict[str, Any]:
    return {"draft": {"recipe": draft.recipe, "text": draft.text}, "findings": told(found)}
