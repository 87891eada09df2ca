"""Messages from Redis, read once with care: what Celery is given afterwards has the form that it expects.

Whoever may push to a queue could else end the worker, or the whole fleet one after the other, with a message that is
not JSON, has a body of two elements or lacks its content type.
"""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from typing import Any

from sightline.broker import CALL_TASK, CHUNKS_TASK, REFUSE_TASK, SUBMIT_QUEUE, SUBMIT_TASK, envelope

KEPT_CHARACTERS = 100_000
"""Of a message that cannot be read."""


class MalformedMessage(Exception):
    """A message that cannot be read as a Celery envelope (protocol 2); says what is wrong with it."""


def checked(raw: bytes, queue: str) -> bytes:
    """The envelope made anew from its task, id and arguments, for the queue that it lay on.

    Everything else of it is dropped: no header that another client sets, such as an eta, a chord or a time limit, and
    no routing key of its own has any effect. Raises MalformedMessage.
    """
    message = _object(_json(raw, "it"), "it")
    headers = _object(message.get("headers"), "headers")
    task, message_id = headers.get("task"), headers.get("id")
    for name, value in (("task", task), ("id", message_id)):
        if not isinstance(value, str) or not 0 < len(value) <= 255:
            raise MalformedMessage(f"headers.{name} must be a string of 1 to 255 characters, not {_shown(value)}")
    known = (SUBMIT_TASK,) if queue == SUBMIT_QUEUE else (CHUNKS_TASK, CALL_TASK, SUBMIT_TASK)
    if task not in (*known, REFUSE_TASK):
        raise MalformedMessage(f"headers.task must be {' or '.join(known)} on queue {queue}, not {_shown(task)}")
    body = message.get("body")
    properties = message.get("properties")
    if isinstance(body, str):
        encoding = properties.get("body_encoding") if isinstance(properties, dict) else None
        body = _json(_decoded(body) if encoding == "base64" else body, "body")
    if not isinstance(body, list) or len(body) != 3 or not isinstance(body[0], list) or not isinstance(body[1], dict):
        raise MalformedMessage(f"body must be [arguments, named arguments, {{}}] in JSON, not {_shown(body)}")
    return envelope(queue, str(task), body[1], args=body[0], message_id=str(message_id))


def refused(raw: bytes, reason: str) -> bytes:
    """The envelope that brings a message that `checked` refused to whoever keeps it: its id, its text, the reason."""
    message_id = None
    with suppress(MalformedMessage):
        message_id = _object(_object(_json(raw, "it"), "it").get("headers"), "headers").get("id")
    text = raw[: 4 * KEPT_CHARACTERS].decode(errors="replace").replace("\0", "\\0")[:KEPT_CHARACTERS]
    known = {"known_as": message_id if isinstance(message_id, str) else "", "request": text, "reason": reason}
    return envelope(SUBMIT_QUEUE, REFUSE_TASK, known)


def _json(text: str | bytes, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedMessage(f"{what} is not JSON: {error}") from None


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MalformedMessage(f"{what} must be an object, not {_shown(value)}")
    return value


def _decoded(body: str) -> bytes:
    try:
        return base64.b64decode(body, validate=True)
    except ValueError as error:
        raise MalformedMessage(f"body is not base64: {error}") from None


def _shown(value: Any) -> str:
    return f"{json.dumps(value):.80}" if value is not None else "missing"
