"""Questions to a chat model and its answers, with what each took."""

from __future__ import annotations

import base64
import io
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import httpx2
import numpy as np
from PIL import Image

from models.endpoint.text import one_line
from models.endpoint.transport import Endpoint, Reply
from models.errors import AnswerEmpty, AnswerMalformed, AnswerRefused, ModelError
from models.protocols import Decoding, Identity

T = TypeVar("T")
PURPOSE: ContextVar[str] = ContextVar("purpose", default="caption")
"""The recipe at work in this thread, for the accounting of a captioner that several recipes share."""
Message = dict[str, Any]

_PNG_PIXELS: Final = 512 * 512
IMAGES: Final = f"PNG up to {_PNG_PIXELS} pixels, JPEG of quality 92 above"
_REFUSAL: Final = re.compile(
    r"(i['\u2019]?m sorry|i am sorry|sorry|i apologi[sz]e)\b.{0,40}\b(can['\u2019]?t|cannot|can not|unable|not able)\b"
    r"|(i|we) (can['\u2019]?t|cannot|can not|won['\u2019]?t|will not|am unable to|am not able to) "
    r"(assist|help|comply|describe|provide|fulfil|fulfill|answer|do that|process|create|write|generate|view|see)\b"
    r"|as an ai\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said.

    Args:
        text: as it came; never empty.
        truncated: whether the limit of tokens ended it.
        logprobs: natural-log probability of each generated token; None if the endpoint does not tell.
        prompt_tokens, completion_tokens: as the endpoint counted; None if it does not tell.
        tries: requests that it took.
    """

    text: str
    truncated: bool
    logprobs: tuple[float, ...] | None
    prompt_tokens: int | None
    completion_tokens: int | None
    tries: int


@dataclass(frozen=True, slots=True)
class Spent:
    """What one question took, whether it was answered or not.

    Args:
        purpose: the recipe that asked.
        model: whom.
        outcome: "answered", or the class of the error.
        prompt_tokens, completion_tokens: 0 where the endpoint did not tell.
        tries: requests that were answered or failed; 0 if it is not known.
        seconds: of all tries and the waiting between them.
    """

    purpose: str
    model: str
    outcome: str
    prompt_tokens: int
    completion_tokens: int
    tries: int
    seconds: float


class ChatEndpoint:
    """One model of an endpoint, asked through /chat/completions. Safe in threads.

    Args:
        endpoint: the server.
        model: its name there.
        observe: called once for each question, from the thread that asks.

    Attributes:
        identity: of the model; its address without credentials.
    """

    def __init__(self, endpoint: Endpoint, model: str, observe: Callable[[Spent], None] | None = None) -> None:
        self.endpoint, self.model, self._observe = endpoint, model, observe
        self.identity = Identity(
            model=model,
            revision=None,
            kind="endpoint",
            weights=None,
            tokenizer=None,
            preprocessing=None,
            dtype="remote",
            source=endpoint.address,
            libraries={"httpx2": httpx2.__version__},
        )

    def ask(
        self,
        messages: Sequence[Message],
        *,
        purpose: str,
        decoding: Decoding,
        schema: Mapping[str, Any] | None = None,
        logprobs: bool = False,
    ) -> Answer:
        """Ask once.

        Args:
            messages: of the chat; see `models.endpoint.prompts`.
            purpose: the recipe, for the accounting.
            decoding: limit, temperature, top_p and seed; no beams.
            schema: JSON schema that the answer has to follow.
            logprobs: ask for the probabilities of the tokens too.

        Raises:
            EndpointError: no usable answer, see `models.errors`.
        """
        payload: dict[str, Any] = {
            "model": self.model,
            "messages": list(messages),
            "max_tokens": decoding.max_tokens,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "seed": decoding.seed,
        }
        if schema is not None:
            payload["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "strict": True, "schema": dict(schema)},
            }
        if logprobs:
            payload["logprobs"] = True
        began, outcome, reply = time.monotonic(), "answered", None
        try:
            reply = self.endpoint.post("/chat/completions", payload)
            return self._answer(reply)
        except ModelError as error:
            outcome = type(error).__name__
            raise
        finally:
            self._account(purpose, outcome, reply, time.monotonic() - began)

    def each(self, ask: Callable[[T], Any], questions: Sequence[T]) -> list[Any]:
        """`ask(question)` for each, as many at a time as the endpoint allows: results in order, errors in their places.

        Only errors of the tree of `models.errors` are results; any other ends it.
        """

        def one(question: T) -> Any:
            try:
                return ask(question)
            except ModelError as error:
                return error

        if len(questions) < 2:
            return [one(question) for question in questions]
        with ThreadPoolExecutor(min(self.endpoint.concurrency, len(questions)), "endpoint") as threads:
            return list(threads.map(one, questions))

    def _account(self, purpose: str, outcome: str, reply: Reply | None, seconds: float) -> None:
        if self._observe is None:
            return
        usage = _usage(reply.body) if reply else {}
        self._observe(
            Spent(
                purpose,
                self.model,
                outcome,
                usage.get("prompt_tokens") or 0,
                usage.get("completion_tokens") or 0,
                reply.tries if reply else 0,
                seconds,
            )
        )

    def _answer(self, reply: Reply) -> Answer:
        choices = reply.body.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(choice, dict) or not isinstance(message, dict):
            raise AnswerMalformed(f"{self.model} gave no message: it answered the fields {sorted(reply.body)[:8]}")
        finish, text = choice.get("finish_reason"), message.get("content")
        if refusal := message.get("refusal"):
            raise AnswerRefused(f"{self.model} refused: {one_line(str(refusal))[:200]}")
        if finish == "content_filter":
            raise AnswerRefused(f"a content filter of {self.model} stopped the answer")
        if text is not None and not isinstance(text, str):
            raise AnswerMalformed(f"{self.model} gave a message whose content is no text")
        if text is None or not one_line(text):
            limit = (
                ", having spent all of max_tokens before (a reasoning model needs more)" if finish == "length" else ""
            )
            raise AnswerEmpty(f"{self.model} answered no text{limit}")
        usage = _usage(reply.body)
        return Answer(
            text,
            finish == "length",
            _logprobs(choice),
            usage.get("prompt_tokens"),
            usage.get("completion_tokens"),
            reply.tries,
        )


def check_not_refused(text: str, model: str) -> str:
    """The text, unless it opens as models decline. Raises AnswerRefused."""
    if _REFUSAL.match(text):
        raise AnswerRefused(f"{model} refused: {text[:200]}")
    return text


def image_part(image: np.ndarray) -> dict[str, Any]:
    """uint8 RGB (height, width, 3) as part of a message: the file itself, so that no server fetches anything."""
    kind = "PNG" if image.shape[0] * image.shape[1] <= _PNG_PIXELS else "JPEG"
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, quality=92)
    data = base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind.lower()};base64,{data}"}}


def _usage(body: dict[str, Any]) -> dict[str, int]:
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return {}
    return {name: count for name, count in usage.items() if type(count) is int and 0 <= count < 2**31}


def _logprobs(choice: dict[str, Any]) -> tuple[float, ...] | None:
    """Of the generated tokens; None unless there is a number for each."""
    told = choice.get("logprobs")
    content = told.get("content") if isinstance(told, dict) else None
    if not isinstance(content, list) or not content:
        return None
    found = [token.get("logprob") if isinstance(token, dict) else None for token in content]
    numbers = tuple(float(one) for one in found if isinstance(one, int | float))
    return numbers if len(numbers) == len(found) else None
