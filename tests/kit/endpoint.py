"""A small OpenAI-compatible server over real HTTP, whose model is a Python function, and which fails when told to."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Question:
    """One request as the model sees it."""

    system: str
    task: str
    data: dict[str, Any] | None
    image: np.ndarray | None
    payload: dict[str, Any]


@dataclass(frozen=True)
class Said:
    """What the model says; `logprobs` None leaves them out."""

    text: str | None
    finish: str = "stop"
    logprobs: list[float] | None = None
    tokens: int | None = None
    refusal: str | None = None


@dataclass(frozen=True)
class Fault:
    """What the server does instead of asking the model."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"{}"
    sleep: float = 0.0
    drip: float = 0.0  # seconds between two bytes
    drop: bool = False  # close the connection without an answer


Model = Callable[[Question], Said | str]


class ChatServer:
    """Serves `/v1/chat/completions` in threads; `with ChatServer(model) as server`.

    Attributes:
        url: of the API.
        faults: taken one by one by the next requests.
        key: required as bearer token if set.
        payloads, headers: of all requests so far.
        most_at_once: requests that were in flight together.
    """

    def __init__(self, model: Model, key: str | None = None) -> None:
        self.model, self.key = model, key
        self.faults: deque[Fault] = deque()
        self.payloads: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.most_at_once = self._now = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer._serve(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def forget(self) -> None:
        """As if nothing had been asked."""
        self.payloads.clear()
        self.headers.clear()
        self.faults.clear()
        self.most_at_once = 0

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        payload = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            self.payloads.append(payload)
            self.headers.append({name.lower(): value for name, value in handler.headers.items()})
            fault = self.faults.popleft() if self.faults else None
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            if fault is not None:
                _fail(handler, fault)
            elif self.key and handler.headers.get("Authorization") != f"Bearer {self.key}":
                given = handler.headers.get("Authorization", "")
                _send(handler, 401, {"error": {"message": f"wrong key provided: {given.removeprefix('Bearer ')}"}})
            elif handler.path != "/v1/chat/completions":
                _send(handler, 404, {"detail": "no such path"})
            else:
                self._answer(handler, payload)
        except (BrokenPipeError, ConnectionResetError):
            handler.close_connection = True  # the client gave up
        finally:
            with self._lock:
                self._now -= 1

    def _answer(self, handler: BaseHTTPRequestHandler, payload: dict[str, Any]) -> None:
        try:
            said = self.model(read_question(payload))
        except ValueError as error:
            _send(handler, 400, {"error": {"message": str(error)}})
            return
        if isinstance(said, str):
            said = Said(said)
        message: dict[str, Any] = {"role": "assistant", "content": said.text}
        if said.refusal is not None:
            message["refusal"] = said.refusal
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": said.finish}
        if payload.get("logprobs") and said.logprobs is not None:
            choice["logprobs"] = {"content": [{"token": "t", "logprob": one} for one in said.logprobs]}
        words = len((said.text or "").split())
        asked = sum(len(str(one["content"]).split()) for one in payload["messages"])
        usage = {"prompt_tokens": asked, "completion_tokens": words if said.tokens is None else said.tokens}
        _send(handler, 200, {"model": payload["model"], "choices": [choice], "usage": usage})


def read_question(payload: dict[str, Any]) -> Question:
    """The parts of a request as OpenAI's API defines them. Raises KeyError or ValueError where it is none."""
    system, user = payload["messages"]
    assert (system["role"], user["role"]) == ("system", "user")
    content, image = user["content"], None
    if not isinstance(content, str):
        text, shown = content
        kind, _, data = shown["image_url"]["url"].partition(";base64,")
        assert kind in ("data:image/png", "data:image/jpeg"), kind
        image = np.array(Image.open(io.BytesIO(base64.b64decode(data, validate=True))))
        content = text["text"]
    task, _, rest = content.partition("\n<data>\n")
    found = json.loads(rest.removesuffix("\n</data>")) if rest else None
    return Question(system["content"], task, found, image, payload)


def _fail(handler: BaseHTTPRequestHandler, fault: Fault) -> None:
    time.sleep(fault.sleep)
    if fault.drop:
        handler.close_connection = True
        return
    handler.send_response(fault.status)
    for name, value in fault.headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(fault.body)))
    handler.end_headers()
    if not fault.drip:
        handler.wfile.write(fault.body)
        return
    for byte in fault.body:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        time.sleep(fault.drip)


def _send(handler: BaseHTTPRequestHandler, status: int, content: dict[str, Any]) -> None:
    body = json.dumps(content).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)
