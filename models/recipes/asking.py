"""A language model asked for captions: one question for each subject, strictly read, with what it took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from models.endpoint.chat import ChatEndpoint
from models.endpoint.prompts import CAPTION_SCHEMA, Prompt, read_caption
from models.errors import ModelError
from models.protocols import Decoding
from models.recipes.recipe import Written


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about one subject: others' words, how to choose words, and what to keep of where they came from."""

    data: dict[str, Any]
    decoding: Decoding
    provenance: dict[str, Any]


def ask_each(
    llm: ChatEndpoint, prompt: Prompt, purpose: str, questions: Sequence[Question | ModelError]
) -> list[Written | ModelError]:
    """A caption for each question; errors pass through, and a question without a usable answer has its own.

    Each question is a chat of its own: what stands in one reaches no other.
    """

    def one(question: Question | ModelError) -> Written:
        if isinstance(question, ModelError):
            raise question
        answer = llm.ask(
            prompt.messages(question.data), purpose=purpose, decoding=question.decoding, schema=CAPTION_SCHEMA
        )
        spent = {
            "prompt": prompt.label,
            "endpoint": llm.identity.source,
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.completion_tokens,
            "tries": answer.tries,
        }
        return Written(read_caption(answer, llm.model), provenance={**question.provenance, **spent})

    return llm.each(one, questions)
