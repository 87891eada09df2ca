"""Texts of calls: encoded once, for all who ask at the same time and for those who ask again."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest

from models.encoder import Encoder
from models.errors import InvalidInput
from workers import query_texts
from workers.encoding import works_of
from workers.engine import Engine, Expired
from workers.golden import Golden
from workers.metrics import CACHE_HITS, JOINED
from workers.query_texts import QueryTexts
from workers.recent import Recent
from workers.spaces import Served
from workers.vector import Vector


@pytest.fixture
def served(encoder: Encoder) -> Iterator[Served]:
    works = works_of(encoder)
    with closing(Engine(works, "tiny")) as engine:
        yield Served(1, "tiny", ("image", "text"), encoder, engine, Golden(encoder, works, engine, "tiny"))


def count(metric: object) -> float:
    return float(next(iter(metric.collect())).samples[0].value)  # type: ignore[attr-defined]


def vector(answer: Vector | Exception) -> Vector:
    assert isinstance(answer, Vector)
    return answer


def within(seconds: float) -> float:
    return time.monotonic() + seconds


class Held:
    """Holds the engine between two batches."""

    def __init__(self, served: Served) -> None:
        self._go = threading.Event()
        entered = threading.Event()
        served.engine.at_border(lambda: (entered.set(), self._go.wait(10)))
        assert entered.wait(5)

    def let_go(self) -> None:
        self._go.set()


def test_a_text_that_is_asked_again_is_not_encoded_again(served: Served, encoder: Encoder) -> None:
    texts, hits = QueryTexts(), count(CACHE_HITS)
    first = texts.encode(served, {0: "a red cube", 1: "a blue ball"}, within(10))
    again = texts.encode(served, {7: "a blue ball", 8: "a red cube"}, within(10))
    assert served.engine.done == 2
    assert count(CACHE_HITS) == hits + 2
    assert vector(again[8]) is vector(first[0])
    expected = encoder.encode_texts([encoder.prepare_text("a red cube")])[0]
    assert np.allclose(vector(first[0]).values, expected / np.linalg.norm(expected), atol=1e-5)


def test_what_was_not_read_of_a_text_is_said_each_time(served: Served) -> None:
    texts = QueryTexts()
    for _ in range(2):
        (answer,) = texts.encode(served, {0: "red cube " * 50}, within(10)).values()
        assert vector(answer).note is not None
        assert "tokens of the text were read" in str(vector(answer).note)


def test_many_who_ask_at_the_same_time_wait_for_one_encoding(served: Served) -> None:
    texts, joined = QueryTexts(), count(JOINED.labels("call"))
    held = Held(served)
    with ThreadPoolExecutor(8) as callers:
        asked = [callers.submit(texts.encode, served, {0: "the same"}, within(10)) for _ in range(8)]
        while count(JOINED.labels("call")) < joined + 7:
            time.sleep(0.01)
        held.let_go()
        answers = [one.result(10)[0] for one in asked]
    assert served.engine.done == 1
    assert all(answer is answers[0] for answer in answers)


def test_a_text_that_stands_twice_in_a_call_is_encoded_once(served: Served) -> None:
    answers = QueryTexts().encode(served, {0: "twice", 1: "twice"}, within(10))
    assert served.engine.done == 1
    assert answers[0] is answers[1]


def test_who_joined_a_call_with_less_time_is_not_dropped_with_it(served: Served) -> None:
    texts, joined = QueryTexts(), count(JOINED.labels("call"))
    held = Held(served)
    with ThreadPoolExecutor(2) as callers:
        hasty = callers.submit(texts.encode, served, {0: "both"}, within(0.2))
        while not served.engine.waiting("interactive"):
            time.sleep(0.01)
        patient = callers.submit(texts.encode, served, {0: "both"}, within(20))
        while count(JOINED.labels("call")) == joined:
            time.sleep(0.01)
        time.sleep(0.3)
        held.let_go()
        with pytest.raises(Expired):
            hasty.result(10)
        vector(patient.result(10)[0])
    assert served.engine.done == 1


def test_a_text_that_cannot_be_encoded_fails_alone_and_is_tried_again(served: Served) -> None:
    texts = QueryTexts()
    for _ in range(2):
        answers = texts.encode(served, {0: "good", 1: "bad \ud800"}, within(10))
        assert isinstance(answers[1], InvalidInput)
        vector(answers[0])


def test_vectors_from_before_a_drift_are_forgotten(served: Served) -> None:
    texts = QueryTexts()
    texts.encode(served, {0: "kept"}, within(10))
    served.golden.epoch += 1
    texts.encode(served, {0: "kept"}, within(10))
    assert served.engine.done == 2


def test_spaces_do_not_share_vectors(served: Served) -> None:
    texts = QueryTexts()
    texts.encode(served, {0: "kept"}, within(10))
    other = Served(2, "other", served.modalities, served.encoder, served.engine, served.golden)
    texts.encode(other, {0: "kept"}, within(10))
    assert served.engine.done == 2


def test_what_is_kept_is_bounded(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_texts, "KEPT", 3)
    texts = QueryTexts()
    for n in range(10):
        texts.encode(served, {0: f"text {n % 5}"}, within(10))
    assert served.engine.done == 10


def test_what_was_asked_for_longest_ago_goes_first() -> None:
    recent: Recent[int] = Recent(2)
    recent.put("a", 1)
    recent.put("b", 2)
    assert recent.get("a") == 1
    recent.put("c", 3)
    assert (recent.get("a"), recent.get("b"), recent.get("c"), len(recent)) == (1, None, 3, 2)
