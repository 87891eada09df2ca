"""A captioner over real HTTP conforms to the kit: a tiny real one answers behind the endpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Lock
from typing import Any

import numpy as np
import pytest

from models.captioners import caption_each
from models.endpoint.captioner import LONGEST_SIDE, EndpointCaptioner
from models.endpoint.chat import ChatEndpoint
from models.endpoint.prompts import load_prompt
from models.endpoint.transport import Endpoint
from models.errors import AnswerRefused, InvalidInput
from models.protocols import Caption, Decoding
from tests.kit.captioner import GREEDY, SAMPLED, CaptionerKit
from tests.kit.endpoint import ChatServer, Question, Said
from tests.kit.tiny_captioner import TinyCaptioner


class TinyBehind:
    """The tiny captioner as the model of a server."""

    def __init__(self) -> None:
        self.tiny, self.poisoned, self._lock = TinyCaptioner(), False, Lock()

    def __call__(self, question: Question) -> Said:
        assert question.image is not None
        asked = question.payload
        decoding = Decoding(asked["max_tokens"], 1, asked["temperature"], asked["top_p"], asked["seed"])
        prompt = None if question.task == load_prompt("caption").task else question.task
        try:
            with self._lock:
                (caption,) = self.tiny.caption([self.tiny.prepare_image(question.image)], prompt, decoding)
        except InvalidInput as error:
            raise ValueError(str(error)) from error
        assert caption.score is not None
        assert caption.tokens is not None
        logs = [float("nan") if self.poisoned else caption.score] * caption.tokens
        # An empty caption is no text, which is an error; the tiny one has some.
        return Said(caption.text or "nothing", "length" if caption.truncated else "stop", logs, caption.tokens)


@pytest.fixture(scope="module")
def behind() -> TinyBehind:
    return TinyBehind()


@pytest.fixture(scope="module")
def server(behind: TinyBehind) -> Iterator[ChatServer]:
    with ChatServer(behind) as running:
        yield running


def open_captioner(server: ChatServer) -> EndpointCaptioner:
    return EndpointCaptioner(ChatEndpoint(Endpoint(server.url, seconds=20), "tiny"))


class TestEndpoint(CaptionerKit):
    decodings = (GREEDY, SAMPLED)

    @pytest.fixture
    def load(self, server: ChatServer) -> Callable[[], EndpointCaptioner]:
        return lambda: open_captioner(server)

    @pytest.fixture
    def poisoned(self, server: ChatServer, behind: TinyBehind) -> Iterator[Any]:
        behind.poisoned = True
        yield open_captioner(server)
        behind.poisoned = False


def test_many_images_are_asked_at_a_time_and_no_more_than_allowed(server: ChatServer) -> None:
    server.forget()
    captioner = EndpointCaptioner(ChatEndpoint(Endpoint(server.url, concurrency=3, seconds=20), "tiny"))
    images = [np.full((20, 20, 3), shade, np.uint8) for shade in range(0, 240, 40)]
    short = Decoding(max_tokens=4)
    found = captioner.caption(images, None, short)
    assert len(found) == len(images) == len(server.payloads)
    assert 2 <= server.most_at_once <= 3
    assert found == [captioner.caption([image], None, short)[0] for image in images]


def test_a_large_image_is_sent_smaller(server: ChatServer) -> None:
    server.forget()
    captioner = open_captioner(server)
    prepared = captioner.prepare_image(np.zeros((500, 4000, 3), np.uint8))
    assert prepared.shape == (LONGEST_SIDE // 8, LONGEST_SIDE, 3)
    big = captioner.prepare_image(np.zeros((900, 900, 3), np.uint8))
    captioner.caption([prepared, big], None, Decoding(max_tokens=2))
    kinds = {p["messages"][1]["content"][1]["image_url"]["url"][:14] for p in server.payloads}
    assert kinds == {"data:image/png", "data:image/jpe"}


def test_beams_are_refused(server: ChatServer) -> None:
    with pytest.raises(InvalidInput, match="beam search"):
        open_captioner(server).caption([np.zeros((8, 8, 3), np.uint8)], None, Decoding(beams=2))


def test_an_image_that_is_refused_leaves_its_neighbours_their_captions() -> None:
    def model(question: Question) -> str:
        assert question.image is not None
        return "I'm sorry, but I can't help with that." if question.image.mean() > 128 else "a dark square"

    images = [np.full((8, 8, 3), shade, np.uint8) for shade in (0, 255, 10)]
    with ChatServer(model) as server:
        captioner = open_captioner(server)
        first, refused, last = caption_each(captioner, images)
        assert first == last == Caption("a dark square", None, 3, False)
        assert isinstance(refused, AnswerRefused)
        with pytest.raises(AnswerRefused, match="tiny refused"):
            captioner.caption(images)
