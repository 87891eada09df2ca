"""Prompts: data files with a version, and the messages that they become.

What is ours (the task) and what others wrote (captions, words read off an image, names) are kept apart: the latter goes
as one JSON object between <data> and </data>, in which neither a quote nor a tag can end it.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from models.endpoint.chat import Answer, Message, check_not_refused, image_part
from models.endpoint.text import MAX_CAPTION, one_line
from models.errors import AnswerEmpty, AnswerMalformed, AnswerTooLong, AnswerTruncated

FOLDER: Final = Path(__file__).resolve().parents[1] / "prompts"
CAPTION_SCHEMA: Final = {
    "type": "object",
    "properties": {"caption": {"type": "string"}},
    "required": ["caption"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt of `models/prompts`.

    Args:
        name: of its file.
        version: raised with every change of its words.
        system: who the model is, and the rules.
        task: what it shall do with the data.
    """

    name: str
    version: int
    system: str
    task: str

    @property
    def label(self) -> str:
        """Name and version, for provenance: "fusecap@1"."""
        return f"{self.name}@{self.version}"

    @property
    def digest(self) -> str:
        """sha256 of the words."""
        return hashlib.sha256(json.dumps([self.system, self.task]).encode()).hexdigest()

    def messages(self, data: Mapping[str, Any] | None = None, image: np.ndarray | None = None) -> list[Message]:
        """The chat that asks for the task, with others' words as `data` and an image beside."""
        text = self.task
        if data is not None:
            # Escaped, so that no text can hold the tag that ends the data.
            told = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c").replace(">", "\\u003e")
            text += f"\n<data>\n{told}\n</data>"
        content: Any = text if image is None else [{"type": "text", "text": text}, image_part(image)]
        return [{"role": "system", "content": self.system}, {"role": "user", "content": content}]


@cache
def load_prompt(name: str) -> Prompt:
    """The prompt of that name."""
    content = tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    return Prompt(name, int(content["version"]), content["system"].strip(), content["task"].strip())


def read_caption(answer: Answer, model: str) -> str:
    """The caption in an answer that follows CAPTION_SCHEMA, in one line and bounded.

    Raises:
        AnswerTruncated, AnswerMalformed, AnswerEmpty, AnswerRefused, AnswerTooLong: there is none.
    """
    if answer.truncated:
        raise AnswerTruncated(f"{model} was cut at the limit of tokens; raise the parameter max_tokens")
    try:
        found = json.loads(answer.text)
    except ValueError:
        check_not_refused(one_line(answer.text), model)
        raise AnswerMalformed(f"{model} answered no JSON: {one_line(answer.text)[:120]!r}") from None
    if not isinstance(found, dict) or set(found) != {"caption"} or not isinstance(found["caption"], str):
        raise AnswerMalformed(
            f'{model} answered {one_line(answer.text)[:120]!r}, expected an object {{"caption": text}} and nothing else'
        )
    return read_text(found["caption"], model)


def read_text(text: str, model: str) -> str:
    """A text of a model in one line, bounded. Raises AnswerEmpty, AnswerRefused, AnswerTooLong."""
    found = one_line(text)
    if not found:
        raise AnswerEmpty(f"{model} answered an empty caption")
    if len(found) > MAX_CAPTION:
        raise AnswerTooLong(f"{model} answered {len(found)} characters, more than the {MAX_CAPTION} of a caption")
    return check_not_refused(found, model)
