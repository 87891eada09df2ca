"""Messages that no client of ours writes: dropped with a reason, and the worker serves the next one."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from sightline.broker import CALL_TASK, CHUNKS_TASK, Broker, envelope
from tests.workers.processes import WorkerProcess, Workers, until
from tests.workers.test_contracts import raw_call
from workers.envelopes import MalformedMessage, checked

GOOD = json.loads(envelope("encode", CHUNKS_TASK, {"chunk_ids": []}, message_id="an id"))


def changed(**fields: Any) -> bytes:
    return json.dumps(GOOD | fields).encode()


def without(name: str) -> bytes:
    return json.dumps({key: value for key, value in GOOD.items() if key != name}).encode()


def encoded(body: Any) -> str:
    return base64.b64encode(json.dumps(body).encode()).decode()


MALFORMED = {
    b"not JSON at all": "it is not JSON: ",
    b"\xff\xfe": "it is not JSON: ",
    b"[" * 100_000: "it is not JSON: ",
    b"[1, 2]": "it must be an object, not [1, 2]",
    without("headers"): "headers must be an object, not missing",
    changed(headers={"task": CHUNKS_TASK}): "headers.id must be a string of 1 to 255 characters, not missing",
    changed(headers={"id": "7"}): "headers.task must be a string of 1 to 255 characters, not missing",
    changed(headers={"task": 7, "id": "7"}): "headers.task must be a string of 1 to 255 characters, not 7",
    changed(
        headers={"task": "sightline.chucks", "id": "7"}
    ): "headers.task must be sightline.chunks or sightline.call or ",
    without("body"): "body must be [arguments, named arguments, {}] in JSON, not missing",
    changed(body=encoded([[], {}])): "body must be [arguments, named arguments, {}] in JSON, not [[], {}]",
    changed(body="no base64!"): "body is not base64: ",
    changed(body=encoded([[], {}, {}]), properties={}): "body is not JSON: ",
}


@pytest.mark.parametrize(("raw", "reason"), MALFORMED.items(), ids=range(len(MALFORMED)))
def test_a_malformed_message_is_refused_with_the_reason(raw: bytes, reason: str) -> None:
    with pytest.raises(MalformedMessage) as caught:
        checked(raw, "encode")
    assert str(caught.value).startswith(reason)


@pytest.mark.parametrize(
    "raw",
    [
        json.dumps(GOOD).encode(),
        without("content-type"),
        without("properties").replace(GOOD["body"].encode(), b'[[], {\\"chunk_ids\\": []}, {}]'),
        changed(body=[[], {"chunk_ids": []}, {}]),
        changed(headers=GOOD["headers"] | {"eta": "2999-01-01T00:00:00", "timelimit": 7, "chord": "x", "retries": "y"}),
        changed(properties=GOOD["properties"] | {"delivery_info": {"exchange": "x", "routing_key": "wrong"}}),
    ],
)
def test_what_can_be_read_reaches_celery_in_one_form(raw: bytes) -> None:
    made = json.loads(checked(raw, "encode.red"))
    assert set(made["headers"]) == set(GOOD["headers"])
    assert (made["headers"]["task"], made["headers"]["id"]) == (CHUNKS_TASK, "an id")
    assert made["properties"]["delivery_info"] == {"exchange": "", "routing_key": "encode.red"}
    assert json.loads(base64.b64decode(made["body"]))[:2] == [[], {"chunk_ids": []}]


@pytest.fixture(scope="module")
def worker(space: str, start_worker: Workers) -> WorkerProcess:
    return start_worker()


def test_a_worker_drops_malformed_messages_and_serves_the_next(broker: Broker, worker: WorkerProcess) -> None:
    unknown = envelope("encode", "some.task", {})
    wrong = [envelope("encode", CHUNKS_TASK, {"chunk_ids": ids}) for ids in ("x", [2**70], None)]
    wrong += [envelope("encode", CHUNKS_TASK, {"x": 1}), envelope("encode", CALL_TASK, {}, args=[1, 2])]
    pushed = [*MALFORMED, unknown, *wrong]
    broker.redis.lpush(f"{broker.key_prefix}encode", *pushed)
    broker.redis.lpush(f"{broker.key_prefix}encode.interactive", *MALFORMED)
    until(lambda: len(worker.events("message_malformed")) == 2 * len(MALFORMED) + 1)
    assert worker.events("message_malformed")[-1]["reason"]
    assert "vectors" in raw_call(broker)
    until(lambda: broker.waiting("encode") == 0)
    until(lambda: not broker.redis.exists(f"{broker.key_prefix}unacked"))
    assert worker.events("consumer_ended") == []
    assert worker.exit_code() is None


def test_a_full_redis_loses_no_message_that_was_taken(broker: Broker, worker: WorkerProcess) -> None:
    """A call that lay there when the memory ran out: the copy that Celery keeps of it is refused."""
    before = broker.redis.config_get("maxmemory")["maxmemory"]
    worker.send(19)  # SIGSTOP, so that the call waits until Redis is full
    key = f"{broker.key_prefix}reply:full"
    call = {
        "kind": "encode",
        "space": "tiny",
        "inputs": [{"text": "x"}],
        "reply_key": key,
        "deadline": broker.now() + 30,
    }
    broker.push("encode.interactive", CALL_TASK, [call])
    try:
        broker.redis.config_set("maxmemory", 1)
        worker.send(18)
        worker.wait_for("message_in_memory_only")
        worker.wait_for("task_failed")  # the answer is refused too: its asker is told so when it asks
    finally:
        broker.redis.config_set("maxmemory", before)
        worker.send(18)
    assert "vectors" in raw_call(broker)
    assert worker.exit_code() is None
