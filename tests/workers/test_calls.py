"""Calls through a real worker: answered in their own time whatever jobs do, or dropped."""

from __future__ import annotations

import base64
import io
import statistics
import threading
import time
import uuid
from contextlib import closing
from typing import Any

import numpy as np
import psycopg
import pytest
from PIL import Image
from structlog.testing import capture_logs

from models.encoder import Encoder
from sightline.broker import CALL_TASK, Broker
from sightline.client import Sightline
from sightline.errors import CallFailed, CallTimeout
from tests.workers.conftest import make_space, png
from tests.workers.processes import WorkerProcess, Workers, until
from workers.calls import Calls
from workers.contents import Contents
from workers.database import open_pool
from workers.decoders import Decoders
from workers.ingress import Ingress
from workers.query_texts import QueryTexts
from workers.rerank_calls import RerankCalls
from workers.reranker import Reranker
from workers.scorers import Scorers
from workers.spaces import Spaces

CALLS = "encode.interactive"


@pytest.fixture(scope="module", autouse=True)
def worker(space: str, database_url: str, encoder: Encoder, start_worker: Workers) -> WorkerProcess:
    make_space(database_url, "foreign", encoder, tokenizer="another")
    return start_worker(fork=False)


def ask(broker: Broker, *inputs: dict[str, str], space: str = "tiny", seconds: float = 10.0) -> dict[str, Any]:
    return broker.call(CALLS, {"kind": "encode", "space": space, "inputs": list(inputs)}, seconds)


def test_texts_and_images_are_answered_in_order(broker: Broker, encoder: Encoder) -> None:
    long = "red cube " * 50
    image = base64.b64encode(png(1)).decode()
    answer = ask(broker, {"text": "a red cube"}, {"image": image}, {"text": long})
    assert answer["space"] == "tiny"
    cut = f"only the first {encoder.context_length} tokens of the text were read"
    assert answer["notes"] == [[], [], [cut]]
    vectors = np.array(answer["vectors"], np.float32)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    texts = encoder.encode_texts([encoder.prepare_text(text) for text in ("a red cube", long)])
    assert np.allclose(vectors[[0, 2]], texts / np.linalg.norm(texts, axis=1, keepdims=True), atol=1e-5)


def test_what_a_query_image_does_not_show_is_said(broker: Broker) -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    notes = ask(broker, {"image": base64.b64encode(file.getvalue()).decode()})["notes"]
    assert notes == [["only the first frame of the animation was used"]]


def test_an_alias_is_answered_with_the_name_of_its_space(broker: Broker) -> None:
    assert ask(broker, {"text": "x"}, space="current")["space"] == "tiny"


@pytest.mark.parametrize(
    ("inputs", "name", "message"),
    [
        ([{"text": "x"}], "nowhere", "SpaceRefused: there is no space 'nowhere'"),
        ([{"text": "x"}], "foreign", "SpaceRefused: space foreign is not served by this worker: .*tokenizer.*another"),
        ([{"image": "AAAA"}], "tiny", "NotAnImage: input 0 is no image of a known format"),
        ([{"text": "x"}, {"image": "!"}], "tiny", "InvalidInput: input 1: image is not base64"),
        (
            [{"text": "x", "image": "AAAA"}],
            "tiny",
            r"ContractViolated: call of encode: inputs\[0\] must be an object with exactly one of image, text",
        ),
        ([{}], "tiny", r"ContractViolated: call of encode: inputs\[0\] must be an object with exactly one of"),
        ([{"text": "x" * 100_001}], "tiny", "TextTooLong"),
        ([], "tiny", "ContractViolated: call of encode: inputs must be a list of 1 to 256 elements, not a list of 0"),
        (
            [{"video": "x"}],
            "tiny",
            r'ContractViolated: call of encode: inputs\[0\]: unknown field "video"; fields: image, text',
        ),
    ],
)
def test_what_cannot_be_answered_is_explained(
    broker: Broker, inputs: list[dict[str, str]], name: str, message: str
) -> None:
    with pytest.raises(CallFailed, match=message):
        ask(broker, *inputs, space=name)


def test_a_call_past_its_deadline_is_dropped(broker: Broker, worker: WorkerProcess) -> None:
    reply_key = f"late:{uuid.uuid4()}"
    request = {"kind": "encode", "space": "tiny", "inputs": [{"text": "late"}], "reply_key": reply_key}
    broker.push(CALLS, CALL_TASK, [{**request, "deadline": broker.now() - 1}])
    assert worker.wait_for("call_expired")
    ask(broker, {"text": "on time"})
    assert not broker.redis.exists(reply_key)


def test_a_call_that_finds_no_room_before_its_deadline_is_dropped_and_told(broker: Broker, database_url: str) -> None:
    loaded = threading.Event()

    def slow(_: str) -> None:
        loaded.wait(30)

    scorers = Scorers(["endpoint:slow"], "cpu", slow)
    request = {"kind": "rerank", "space": "tiny", "query": "x", "candidates": [{"text": "y"}]}

    def answer(name: str, seconds: float) -> None:
        calls.answer(request | {"reply_key": f"{name}:{database_url}", "deadline": broker.now() + seconds})

    with open_pool(database_url, 2) as pool, closing(Decoders(1, 60.0)) as decoders, closing(scorers):
        spaces, ingress, texts = Spaces(pool, ["encode"], "cpu"), Ingress([], 10**6, 10**6, 1000), QueryTexts()
        reranker = Reranker(pool, spaces, Contents(pool, ingress), decoders, texts)
        calls = Calls(broker, spaces, ingress, RerankCalls(reranker, scorers), texts, slots=1)
        with closing(spaces), closing(calls):
            answer("runs", 30)
            answer("waits", 30)
            with capture_logs() as logs:
                answer("late", 0.1)
            loaded.set()
            assert [(line["event"], line["kind"], line["error"]) for line in logs] == [
                ("call_expired_at_work", "rerank", "no room among the calls that take long")
            ]
            for name in ("runs", "waits"):
                until(lambda name=name: broker.redis.exists(f"{name}:{database_url}"), 20)  # type: ignore[misc]
            assert not broker.redis.exists(f"late:{database_url}")


def test_nobody_answers_on_a_queue_without_workers(broker: Broker) -> None:
    with pytest.raises(CallTimeout, match=r"encode\.none\.interactive within 0\.2 s"):
        broker.call("encode.none.interactive", {"kind": "encode", "space": "tiny", "inputs": []}, 0.2)


def test_calls_are_answered_while_every_chunk_slot_is_held(broker: Broker, client: Sightline) -> None:
    items: list[Any] = [{"data": png(5000 + n, (30, 30)), "external_id": str(n)} for n in range(600)]
    with psycopg.connect(client.database_url) as holding:
        job = client.ingest(items, collection="busy")
        # No flush ends as long as this holds the items: every slot and every hand-over is taken.
        holding.execute("select from sightline.item where modality = 'image' for update")
        took = []
        for n in range(30):
            began = time.monotonic()
            ask(broker, {"text": f"query {n}"}, seconds=5)
            took.append(time.monotonic() - began)
        assert job.progress().pending > 0
        holding.rollback()
    assert job.wait(timeout=30).done == 600
    assert statistics.median(took) < 0.5, took


def test_many_callers_at_once(broker: Broker) -> None:
    answers: dict[int, Any] = {}

    def caller(n: int) -> None:
        answers[n] = ask(broker, {"text": f"caller {n}"})["vectors"][0]

    threads = [threading.Thread(target=caller, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
    assert len(answers) == 20
    assert all(np.allclose(answers[n], ask(broker, {"text": f"caller {n}"})["vectors"][0], atol=1e-5) for n in (0, 19))
