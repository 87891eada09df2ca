"""What a worker takes from Redis while it cannot reach the ledger."""

from __future__ import annotations

from typing import Any

from sightline.broker import CALL_TASK, CHUNKS_TASK, Broker
from sightline.settings import Settings
from tests.workers.processes import until
from workers.app import make_app
from workers.consumer import Consumer


def test_a_consumer_on_hold_leaves_the_work_and_answers_calls(
    redis_url: str, settings: Settings, broker: Broker
) -> None:
    chunks: list[tuple[str, list[int]]] = []
    calls: list[dict[str, Any]] = []
    queues = ["held", "held.gpu"]
    app = make_app(settings, redis_url, queues, lambda queue, ids: chunks.append((queue, ids)), calls.append,
                   lambda *_: None, lambda *_: None)  # fmt: skip
    consumer = Consumer(app, queues)
    assert consumer.start(20)

    def call() -> None:
        seen = len(calls)
        broker.push("held.interactive", CALL_TASK, [{"number": seen}])
        until(lambda: len(calls) > seen, 10)

    try:
        assert consumer.hold()
        assert not consumer.hold()
        call()  # ends the read that was under way for all queues
        broker.push("held", CHUNKS_TASK, [{"chunk_ids": [1]}])
        broker.push("held.gpu", CHUNKS_TASK, [{"chunk_ids": [2]}])
        call()
        call()
        assert (chunks, broker.waiting("held"), broker.waiting("held.gpu")) == ([], 1, 1)

        assert consumer.go_on()
        until(lambda: len(chunks) == 2, 10)
        assert sorted(chunks) == [("held", [1]), ("held.gpu", [2])]
        call()
    finally:
        consumer.stop_taking()
        assert consumer.join(10)
        app.close()
