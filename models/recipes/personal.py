"""Personal captions (after UAPT, Wang et al. 2023, paper 32): what an image shows, in the words of one user.

The paper trains a prefix from a user's top words; here those words, and some of the user's earlier captions, are shown
to a language model, with the facts apart from them: another user changes the words and not the facts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from models.endpoint.prompts import load_prompt
from models.errors import InvalidInput, ModelError
from models.experts.finding import Found
from models.protocols import Decoding
from models.recipes.asking import Question, ask_each
from models.recipes.drafts import draft_each
from models.recipes.looking import look, told
from models.recipes.recipe import Answer, Known, Subject
from models.recipes.tools import Tools

NAME = "personal"
_FAVOURITES: Final = 15
_LONGEST: Final = 300
_COMMON: Final = frozenset(
    {
        "and", "are", "for", "from", "has", "have", "its", "that", "the", "their", "there", "this", "was", "were",
        "which", "with", "der", "die", "das", "ein", "eine", "und", "mit", "auf", "von", "los", "las", "una", "con",
    }
)  # fmt: skip
"""Of the languages that captions are in, words that say nothing of who writes; shorter ones are left out too."""


class Personal:
    """Conforms to `models.recipes.Recipe`."""

    def model(self, tools: Tools, params: Any) -> str:
        """The language model."""
        return tools.llm.model

    def versions(self, params: Any) -> dict[str, str]:
        """Of the prompt."""
        return {"prompt": load_prompt(NAME).label}

    def write(self, subjects: Sequence[Subject], tools: Tools, params: Any) -> list[Answer]:
        """One caption of each subject in the user's words. Raises InvalidInput where no user is named."""
        if not params.user:
            raise InvalidInput('the recipe personal writes as one user does: name it, params {"user": "..."}')
        llm = tools.llm
        drafts = draft_each(subjects, tools, params.sources)
        found = look(subjects, tools, params)
        questions = [_question(*each, params) for each in zip(subjects, drafts, found, strict=True)]
        answers = ask_each(llm, load_prompt(NAME), NAME, questions)
        return [answer if isinstance(answer, ModelError) else [answer] for answer in answers]


def _question(subject: Subject, draft: Known | ModelError, found: Found, params: Any) -> Question | ModelError:
    if not subject.earlier:
        return InvalidInput(
            f"user {params.user!r} wrote no caption yet: images that have metadata user and caption show how they write"
        )
    if isinstance(draft, ModelError):
        return draft
    if isinstance(found, ModelError):
        return found
    facts = {"seen": draft.text, "findings": told(found)}
    shown = subject.earlier[: params.examples]
    data = {"lang": subject.lang, "facts": facts, "style": {"examples": _cut(shown), **style(subject.earlier)}}
    decoding = Decoding(max_tokens=params.max_tokens, seed=params.seed)
    return Question(data, decoding, {"user": params.user, "examples": len(shown), "facts": facts})


def _cut(texts: Sequence[str]) -> list[str]:
    return [text[:_LONGEST] for text in texts]


def style(earlier: Sequence[str]) -> dict[str, Any]:
    """How somebody writes: the words they use most, and how many words a caption has."""
    counts = Counter(
        word for text in earlier for word in re.findall(r"\w+", text.lower()) if word not in _COMMON and len(word) > 2
    )
    lengths = [len(text.split()) for text in earlier]
    return {
        "favourite_words": [word for word, _ in counts.most_common(_FAVOURITES)],
        "words": round(sum(lengths) / len(lengths)),
    }
