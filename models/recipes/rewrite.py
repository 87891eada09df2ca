"""LaCLIP (Fan et al. 2023, paper 51): captions said anew by a language model that is shown three examples.

As in the paper the examples are drawn anew for each rewrite, by the text and the rewrite's number, so that a job that
runs again asks the same.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Sequence
from functools import cache
from typing import Any

from models.endpoint.prompts import FOLDER, load_prompt
from models.errors import AnswerEmpty, InvalidInput, ModelError
from models.protocols import Decoding
from models.recipes.asking import Question, ask_each
from models.recipes.drafts import known
from models.recipes.recipe import Answer, Subject, Written
from models.recipes.tools import Tools

NAME = "rewrite"
_SHOTS = 3


class Rewrite:
    """Conforms to `models.recipes.Recipe`."""

    def model(self, tools: Tools, params: Any) -> str:
        """The language model."""
        return tools.llm.model

    def versions(self, params: Any) -> dict[str, str]:
        """Of the prompt, its examples included."""
        return {"prompt": load_prompt(NAME).label}

    def write(self, subjects: Sequence[Subject], tools: Tools, params: Any) -> list[Answer]:
        """`params.n` rewrites of each subject's caption; all of them, or the first error."""
        questions = [_question(subject, params, number) for subject in subjects for number in range(params.n)]
        answers = ask_each(tools.llm, load_prompt(NAME), NAME, questions)
        out: list[Answer] = []
        for place in range(len(subjects)):
            own = answers[place * params.n : (place + 1) * params.n]
            errors = [answer for answer in own if isinstance(answer, ModelError)]
            written = [_sentence(answer, tools.llm.model) for answer in own if isinstance(answer, Written)]
            errors += [answer for answer in written if isinstance(answer, ModelError)]
            out.append(errors[0] if errors else [answer for answer in written if isinstance(answer, Written)])
        return out


def _question(subject: Subject, params: Any, number: int) -> Question | ModelError:
    source = known(subject, params.sources)
    if source is None:
        return InvalidInput(
            f"{subject.name} has no caption to rewrite (looked for: {', '.join(params.sources)}): give it one of its "
            f"own in the metadata under caption, or run the recipe describe first"
        )
    shown = random.Random(f"{source.text}:{params.seed + number}").sample(_examples(), _SHOTS)  # noqa: S311
    decoding = Decoding(params.max_tokens, 1, params.temperature, params.top_p, params.seed + number)
    data = {"examples": shown, "caption": source.text}
    return Question(data, decoding, {"source": {"recipe": source.recipe, "text": source.text}})


def _sentence(written: Written, model: str) -> Written | ModelError:
    """The paper takes what has fewer than two words for no rewrite."""
    if len(written.text.split()) < 2:
        return AnswerEmpty(f"{model} rewrote the caption as {written.text!r}, which is no sentence")
    return written


@cache
def _examples() -> list[dict[str, str]]:
    content = tomllib.loads((FOLDER / f"{NAME}.toml").read_text(encoding="utf-8"))
    return list(content["examples"])
