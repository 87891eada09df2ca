"""A captioner behind an endpoint: any chat model that sees images."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from PIL import Image

from models.endpoint.chat import IMAGES, PURPOSE, Answer, ChatEndpoint
from models.endpoint.prompts import Prompt, load_prompt, read_text
from models.errors import InvalidInput, ModelError, NonFinite
from models.preprocess import check_rgb
from models.protocols import GREEDY, Caption, Decoding

LONGEST_SIDE: Final = 1024
_MAX_PROMPT: Final = 4000


class EndpointCaptioner:
    """One model of an endpoint as a captioner; conforms to `models.protocols.Captioner`.

    Args:
        chat: the model.
    """

    device = "remote"

    def __init__(self, chat: ChatEndpoint) -> None:
        self._chat = chat
        rules = f"longest side {LONGEST_SIDE}, Lanczos; {IMAGES}"
        self.identity = replace(chat.identity, preprocessing=hashlib.sha256(rules.encode()).hexdigest())

    def prepare_image(self, image: np.ndarray) -> np.ndarray:
        """Shrink to a longest side of LONGEST_SIDE; a smaller image stays as it is. Raises InvalidInput."""
        check_rgb(image)
        height, width = image.shape[:2]
        share = LONGEST_SIDE / max(height, width)
        if share >= 1:
            return np.array(image, order="C")
        size = max(1, round(width * share)), max(1, round(height * share))
        return np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))

    def caption(
        self, pixels: Sequence[np.ndarray], prompt: str | None = None, decoding: Decoding = GREEDY
    ) -> list[Caption]:
        """One caption for each image; see `models.protocols.Captioner`.

        Raises:
            InvalidInput: beams or guidance, which no endpoint has, or a prompt that cannot be sent.
            NonFinite: the endpoint told probabilities of NaN or infinity, with the indices.
            EndpointError: the first error, if there is any; `caption_each` keeps the others' captions.
        """
        found = self.caption_each(pixels, prompt, decoding)
        bad = [index for index, one in enumerate(found) if isinstance(one, NonFinite)]
        if bad:
            raise NonFinite(bad, "captions", self.identity.dtype)
        captions = []
        for one in found:
            if isinstance(one, ModelError):
                raise one
            captions.append(one)
        return captions

    def caption_each(
        self, pixels: Sequence[np.ndarray], prompt: str | None = None, decoding: Decoding = GREEDY
    ) -> list[Caption | ModelError]:
        """As `caption`, but an image without a caption has its error in its place. Raises InvalidInput."""
        asked = self._prompt(prompt)
        if decoding.beams > 1 or decoding.guidance != 1:
            raise InvalidInput(f"{self.identity.model} is an endpoint and has neither beam search nor guidance")
        purpose = PURPOSE.get()  # of this thread, not of those that ask
        answers = self._chat.each(
            lambda image: self._chat.ask(
                asked.messages(image=image), purpose=purpose, decoding=decoding, logprobs=True
            ),
            pixels,
        )
        return [self._caption(index, answer) for index, answer in enumerate(answers)]

    def _prompt(self, prompt: str | None) -> Prompt:
        own = load_prompt("caption")
        if prompt is None:
            return own
        if len(prompt) > _MAX_PROMPT:
            raise InvalidInput(f"the prompt has {len(prompt)} characters, more than {_MAX_PROMPT}; shorten it")
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(f"the prompt holds a lone surrogate at character {error.start}") from error
        return replace(own, task=prompt)

    def _caption(self, index: int, answer: Answer | ModelError) -> Caption | ModelError:
        if isinstance(answer, ModelError):
            return answer
        try:
            text = read_text(answer.text, self.identity.model)
        except ModelError as error:
            return error
        logs = answer.logprobs
        score = None if logs is None else sum(logs) / len(logs)
        if score is not None and not math.isfinite(score):
            return NonFinite([index], "captions", self.identity.dtype)
        tokens = answer.completion_tokens if answer.completion_tokens is not None or logs is None else len(logs)
        return Caption(text, None if score is None else min(score, 0.0), tokens, answer.truncated)
