"""Messages on Redis: the Celery envelope (protocol 2), calls and their replies.

Written by hand because the client must not depend on Celery, and because one LPUSH of ready envelopes costs a tenth
of `apply_async`. Fields after the Celery documentation, "Message Protocol".
"""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import redis

from sightline.errors import CallFailed, CallTimeout, ContractViolated, ServiceMissing

if TYPE_CHECKING:
    from sightline.contracts.fields import Contract
    from sightline.contracts.problem import M

CHUNKS_TASK = "sightline.chunks"
CALL_TASK = "sightline.call"
SUBMIT_TASK = "sightline.submit"
REFUSE_TASK = "sightline.refuse"
"""Of our own transport: a message on queue `submit` that cannot be read, and why."""
SUBMIT_QUEUE = "submit"
"""Where services of other languages send jobs (docs/enqueue.md): not used by this client, which writes the ledger."""
REPLY_SECONDS = 60
"""How long an answer waits for its asker."""


def envelope(
    queue: str, task: str, kwargs: dict[str, Any], args: Sequence[Any] = (), message_id: str | None = None
) -> bytes:
    """One Celery message: `task(*args, **kwargs)` on a queue, as JSON; by default with an id of its own."""
    message_id = message_id or str(uuid.uuid4())
    body = json.dumps([list(args), kwargs, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    return json.dumps(
        {
            "body": base64.b64encode(body.encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"lang": "py", "task": task, "id": message_id, "root_id": message_id, "ignore_result": True},
            "properties": {
                "body_encoding": "base64",
                "correlation_id": message_id,
                "delivery_info": {"exchange": "", "routing_key": queue},
                "delivery_mode": 2,
                "delivery_tag": str(uuid.uuid4()),
                "priority": 0,
            },
        }
    ).encode()


class Broker:
    """A Redis connection pool with the queues of sightline. Safe in threads."""

    def __init__(self, url: str, key_prefix: str) -> None:
        self.key_prefix = key_prefix
        try:
            self.redis = redis.Redis.from_url(
                url, socket_timeout=10, socket_connect_timeout=3, socket_keepalive=True, health_check_interval=20
            )
        except ValueError as error:
            raise ServiceMissing(f"the Redis URL cannot be used: {error}") from error

    def close(self) -> None:
        """Close all connections."""
        self.redis.close()

    def push(self, queue: str, task: str, messages: Sequence[dict[str, Any]]) -> None:
        """Put messages on a queue, the first one first, in one round trip."""
        if messages:
            self.redis.lpush(self.key_prefix + queue, *[envelope(queue, task, kwargs) for kwargs in messages])

    def waiting(self, queue: str) -> int:
        """How many messages of a queue no worker has taken yet."""
        return int(self.redis.llen(self.key_prefix + queue))

    def now(self) -> float:
        """Redis' clock in seconds: deadlines are by this clock, so hosts need not agree on theirs."""
        seconds, micros = self.redis.time()
        return int(seconds) + int(micros) / 1e6

    def call(self, queue: str, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Ask the workers of a queue and wait for the answer.

        Raises:
            CallTimeout: no worker answered within `seconds`; the request is dropped by whoever takes it later.
            CallFailed: a worker answered with an error.
            ServiceMissing: Redis cannot be reached.
        """
        from sightline.contracts.call import Envelope, ErrorReply  # here, for few commands need it

        reply_key = f"{self.key_prefix}reply:{uuid.uuid4()}"
        try:
            to = Envelope(reply_key=reply_key, deadline=self.now() + seconds)
            self.push(queue, CALL_TASK, [request | to.model_dump()])
            answer = self._wait(reply_key, seconds)
        except (redis.ConnectionError, redis.TimeoutError) as error:
            raise ServiceMissing(f"Redis cannot be reached: {error} (SIGHTLINE_REDIS_URL)") from error
        except redis.RedisError as error:  # full, read-only, or without the rights
            raise ServiceMissing(f"Redis refuses the request: {error}; see `sightline doctor`") from error
        if answer is None:
            raise CallTimeout(
                f"no worker answered on queue {queue} within {seconds:g} s; is one running? (sightline status)"
            )
        if "error" in answer:
            failed = as_reply(ErrorReply, answer).error
            raise CallFailed(f"{failed.error_class}: {failed.message}")
        return answer

    def answer(self, reply_key: str, reply: Contract) -> None:
        """Answer a call."""
        with self.redis.pipeline(transaction=False) as pipe:
            pipe.rpush(reply_key, reply.model_dump_json())
            pipe.expire(reply_key, REPLY_SECONDS)
            pipe.execute()

    def _wait(self, reply_key: str, seconds: float) -> dict[str, Any] | None:
        """BLPOP in steps shorter than the socket timeout."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            popped = self.redis.blpop([reply_key], timeout=min(left, 5.0))
            if popped:
                answer: dict[str, Any] = json.loads(popped[1])
                return answer
        return None


def as_reply(model: type[M], answer: dict[str, Any]) -> M:
    """A worker's answer as its model.

    Raises:
        CallFailed: it is none.
    """
    from sightline.contracts.problem import validated

    try:
        return validated(model, answer, "the worker's answer")
    except ContractViolated as error:
        raise CallFailed(f"{error}; is it of another version of sightline?") from error
