"""Messages that come twice, and messages that are none."""

from __future__ import annotations

import base64
import json
import threading
import time
from typing import Any

import redis

from sightline.broker import CALL_TASK, CHUNKS_TASK, envelope
from tests.drills.catalogue import drill
from tests.drills.stage import Report, Stage
from tests.workers.processes import until


@drill()
def every_message_twice(stage: Stage) -> Report:
    """Each message is delivered at once a second time, and again when it is done: duplicates find nothing to claim."""
    stage.worker()
    stage.worker()
    with Echo(stage) as echo:
        jobs = [stage.submit(600) for _ in range(3)]
        stage.fault()
        stage.recovered(lambda: all(job.progress().finished for job in jobs), 60)
        for message in list(echo.heard):
            stage.redis.lpush(f"{stage.prefix}encode", message)
        until(lambda: stage.redis.llen(f"{stage.prefix}encode") == 0)
    assert len(echo.heard) >= 5
    return stage.settle(*jobs)


class Echo:
    """Says everything twice that is pushed to a queue of work, by Redis' MONITOR. A context manager."""

    def __init__(self, stage: Stage) -> None:
        self.heard: list[str] = []
        self._queue = f"{stage.prefix}encode"
        self._client = redis.Redis.from_url(stage.redis_url, client_name="echo")
        self._listener = redis.Redis.from_url(stage.redis_url, encoding_errors="replace")
        self._stopped = False
        self._thread = threading.Thread(target=self._listen, name="echo", daemon=True)

    def __enter__(self) -> Echo:
        self._address = next(c["addr"] for c in self._client.client_list() if c["name"] == "echo")
        self._thread.start()
        time.sleep(0.2)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._client.ping()  # one more command to hear
        self._thread.join(5)
        self._client.close()
        self._listener.close()

    def _listen(self) -> None:
        with self._listener.monitor() as monitor:
            for command in monitor.listen():
                if self._stopped:
                    return
                words = command["command"].split(" ", 2)
                address = f"{command['client_address']}:{command['client_port']}"
                if words[0].upper() == "LPUSH" and words[1] == self._queue and address != self._address:
                    for message in _messages(words[2]):
                        self.heard.append(message)
                        self._client.lpush(self._queue, message)


def _messages(text: str) -> list[str]:
    """The JSON objects of a command's arguments."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(text):
        _, end = decoder.raw_decode(text, at)
        found.append(text[at:end])
        at = end + 1
    return found


def broken() -> dict[str, bytes]:
    """Envelopes that are wrong in one way each."""

    def change(**changes: Any) -> bytes:
        """A good envelope with other fields; None takes one away."""
        message = json.loads(envelope("encode", CHUNKS_TASK, {"chunk_ids": [1]}))
        for name, value in changes.items():
            keys = name.split("__")
            inner = message
            for key in keys[:-1]:
                inner = inner[key]
            key = keys[-1].replace("content_", "content-")
            if value is None:
                inner.pop(key)
            else:
                inner[key] = value
        return json.dumps(message).encode()

    def body(value: Any) -> str:
        return base64.b64encode(json.dumps(value).encode()).decode()

    def chunks(value: Any) -> bytes:
        return envelope("encode", CHUNKS_TASK, {"chunk_ids": value})

    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    return {
        "no JSON": b"this is not JSON",
        "no UTF-8": b"\xff\xfe\x00{",
        "nothing": b"",
        "a number": b"7",
        "a list": b"[1, 2]",
        "null": b"null",
        "an empty object": b"{}",
        "half of one": envelope("encode", CHUNKS_TASK, {"chunk_ids": [1]})[:100],
        "no body": change(body=None),
        "no headers": change(headers=None),
        "headers of text": change(headers="x"),
        "no properties": change(properties=None),
        "no delivery tag": change(properties__delivery_tag=None),
        "no delivery info": change(properties__delivery_info=None),
        "no id": change(headers__id=None),
        "no task": change(headers__task=None),
        "no content type": change(content_type=None),
        "no content encoding": change(content_encoding=None),
        "no body encoding": change(properties__body_encoding=None),
        "another content type": change(content_type="application/x-python-serialize"),
        "another encoding": change(content_encoding="utf-99"),
        "no base64": change(body="%%%"),
        "a body of two": change(body=body([[], {"chunk_ids": [1]}])),
        "a body of text": change(body=body("x")),
        "arguments of text": change(body=body(["x", "y", embed])),
        "an unknown task": change(headers__task="sightline.unknown"),
        "another routing key": change(properties__delivery_info={"exchange": "x", "routing_key": "y"}),
        "an eta": change(headers__eta="2999-01-01T00:00:00+00:00"),
        "a bad eta": change(headers__eta="tomorrow"),
        "an expiry": change(headers__expires="1999-01-01T00:00:00+00:00"),
        "retries of text": change(headers__retries="x"),
        "a time limit": change(headers__timelimit=["x", {}]),
        "no arguments": envelope("encode", CHUNKS_TASK, {}),
        "unknown arguments": envelope("encode", CHUNKS_TASK, {"chunk_ids": [1], "x": 1}),
        "chunks of text": chunks("abc"),
        "a chunk of text": chunks(["x"]),
        "no chunks": chunks(None),
        "a list of lists": chunks([[1]]),
        "numbers without end": chunks([10**30, -1, 1.5]),
        "chunks that are not there": chunks([10**9, 0, -5]),
        "very many": chunks(list(range(10**6, 10**6 + 20000))),
        "a call of nothing": envelope("encode.interactive", CALL_TASK, {}),
        "a call without an end": envelope("encode.interactive", CALL_TASK, {"kind": "encode", "deadline": "x"}),
        "a call of lists": envelope("encode.interactive", CALL_TASK, {"kind": ["x"], "reply_key": {}, "inputs": 7}),
    }


@drill(brief=True)
def malformed_envelopes(stage: Stage) -> Report:
    """Messages that are wrong in every way, between good ones: the worker says so, and neither ends nor stands still."""
    worker = stage.worker()
    jobs = []
    stage.fault()
    for queue in ("encode", "encode.interactive"):
        for message in broken().values():
            stage.redis.lpush(f"{stage.prefix}{queue}", message)
        jobs.append(stage.submit(200))
        stage.recovered(lambda: jobs[-1].progress().finished, 60)
        assert stage.encode_call("are you there")
    twice = envelope("encode", CHUNKS_TASK, {"chunk_ids": [10**9]})
    stage.redis.lpush(f"{stage.prefix}encode", twice, twice, twice)  # one delivery tag
    jobs.append(stage.submit(200))
    stage.recovered(lambda: jobs[-1].progress().finished, 60)
    assert worker.exit_code() is None
    return stage.settle(*jobs)
