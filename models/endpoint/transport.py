"""JSON over HTTP to one endpoint: so many requests at a time, each in bounded time, tried again where that may help."""

from __future__ import annotations

import json
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, stop_before_delay
from tenacity.wait import wait_random_exponential

from models.endpoint.text import one_line
from models.errors import (
    AnswerMalformed,
    AnswerTooLong,
    EndpointBusy,
    EndpointError,
    EndpointRefused,
    EndpointTimeout,
    EndpointUnauthorised,
    EndpointUnreachable,
)

MAX_ANSWER_BYTES: Final = 2 * 2**20
"""Largest body that is read; an answer of thousands of tokens with their probabilities is smaller."""
_BUSY: Final = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
_TRIES: Final = 4
_BACK_OFF: Final = wait_random_exponential(multiplier=0.5, max=10)


@dataclass(frozen=True, slots=True)
class Reply:
    """A JSON object that came back, and after how many tries."""

    body: dict[str, Any]
    tries: int


class Endpoint:
    """One server. Safe in threads; all that share it share its limit of requests at a time.

    Args:
        url: where the API begins, such as http://localhost:8000/v1; "/v1" is added to a bare host. User and password in
            it are sent as basic authentication.
        key: sent as bearer token; in no message, log line or repr.
        concurrency: most requests at a time. One that waits to be tried again counts: a server that asks for patience
            is asked by fewer.
        seconds: that one try may take. With all its tries and waits a request takes at most about three times that.
        setting: how the settings are called that messages name.

    Attributes:
        address: the URL without user, password and query.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        concurrency: int = 4,
        seconds: float = 60.0,
        setting: str = "SIGHTLINE_LLM",
    ) -> None:
        self.address, self._base = _addresses(url, setting)
        self._key, self._seconds, self._setting = key, seconds, setting
        self.concurrency = concurrency
        self._slots = threading.BoundedSemaphore(concurrency)
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        try:
            self._http = httpx2.Client(
                headers=headers,
                timeout=seconds,
                follow_redirects=False,  # the key is for this server alone
                limits=httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
            )
        except UnicodeError as error:
            raise EndpointUnauthorised(f"{setting}_KEY holds characters that no HTTP header may; check it") from error
        self._close = weakref.finalize(self, self._http.close)  # no socket outlives the last user

    def __repr__(self) -> str:
        """Without the key."""
        return f"Endpoint({self.address!r}, concurrency={self.concurrency})"

    def close(self) -> None:
        """Close the connections, as does forgetting the endpoint."""
        self._close()

    def post(self, path: str, payload: Mapping[str, Any]) -> Reply:
        """Send a JSON object to a path of the API ("/chat/completions") and wait for the one that comes back.

        Raises:
            EndpointError: one of the tree in `models.errors`; those that are `retryable` after all tries.
        """
        content = json.dumps(payload).encode()
        tries = 0

        def once() -> dict[str, Any]:
            nonlocal tries
            tries += 1
            return self._once(path, content)

        again = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, EndpointError) and error.retryable),
            stop=stop_after_attempt(_TRIES) | stop_before_delay(2 * self._seconds),
            wait=_wait,
            reraise=True,
        )
        with self._slots:
            try:
                return Reply(again(once), tries)
            except EndpointError as error:
                if not error.retryable:
                    raise
                more = "" if error.retry_after is None else f", asks to be tried again after {error.retry_after:g} s"
                raise type(error)(f"{error}{more} (tries: {tries})", error.retry_after) from error

    def _once(self, path: str, content: bytes) -> dict[str, Any]:
        end = time.monotonic() + self._seconds
        try:
            with self._http.stream(
                "POST", self._base + path, content=content, headers={"Content-Type": "application/json"}
            ) as response:
                body = self._read(response, end)
        except httpx2.TimeoutException as error:
            raise EndpointTimeout(self._late()) from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            what = one_line(self._redacted(str(error))) or type(error).__name__
            raise EndpointUnreachable(
                f"{self.address} cannot be reached ({what}): check that it runs, and {self._setting}_URL"
            ) from error
        self._check(response, body)
        try:
            found = json.loads(body)
        except ValueError as error:
            raise AnswerMalformed(f"{self.address} answered no JSON: {self._excerpt(body)!r}") from error
        if not isinstance(found, dict):
            raise AnswerMalformed(f"{self.address} answered no JSON object: {self._excerpt(body)!r}")
        return found

    def _read(self, response: httpx2.Response, end: float) -> bytes:
        """The body, as long as it is neither too large nor too late: a server that drips holds nobody up."""
        body = bytearray()
        for piece in response.iter_bytes():
            body += piece
            if len(body) > MAX_ANSWER_BYTES:
                raise AnswerTooLong(
                    f"{self.address} answered more than {MAX_ANSWER_BYTES} bytes, which is no caption; does it honour "
                    f"max_tokens?"
                )
            if time.monotonic() > end:
                raise EndpointTimeout(self._late())
        return bytes(body)

    def _check(self, response: httpx2.Response, body: bytes) -> None:
        status = response.status_code
        if 200 <= status < 300:
            return
        said = self._excerpt(body)
        if status in (401, 403):
            raise EndpointUnauthorised(f"{self.address} refused access ({status}): check {self._setting}_KEY: {said}")
        if status in _BUSY:
            raise EndpointBusy(f"{self.address} answered {status}: {said}", _seconds(response.headers))
        if 300 <= status < 400:
            raise EndpointRefused(
                f"{self.address} redirects ({status}), which is not followed: set {self._setting}_URL to the address "
                f"that it names"
            )
        raise EndpointRefused(
            f"{self.address} refused the request ({status}); check {self._setting}_URL and _MODEL: {said}"
        )

    def _late(self) -> str:
        return f"{self.address} gave no whole answer within {self._seconds:g} s; see SIGHTLINE_LLM_SECONDS"

    def _excerpt(self, body: bytes) -> str:
        """What a server said of an error, short and in one line."""
        text = body[:4000].decode("utf-8", "replace")
        try:
            told = json.loads(text)
            error = told.get("error", told.get("detail", told.get("message")))
            text = str(error.get("message", error) if isinstance(error, dict) else error or text)
        except (ValueError, AttributeError):
            pass
        return one_line(self._redacted(text))[:200]

    def _redacted(self, text: str) -> str:
        """Servers and libraries like to repeat the key that they got."""
        password = urlsplit(self._base).password
        for secret in filter(None, (self._key, password)):
            text = text.replace(secret, "***")
        return text


def _addresses(url: str, setting: str) -> tuple[str, str]:
    """(for people, for requests), the one without user and password. Raises EndpointUnreachable."""
    parts = urlsplit(url.strip())
    try:
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        parts, port = parts._replace(netloc=""), ""
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise EndpointUnreachable(f"{setting}_URL is not an address such as http://localhost:8000/v1; correct it")
    path = parts.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{port}{path}", f"{parts.scheme}://{parts.netloc}{path}"


def _seconds(headers: httpx2.Headers) -> float | None:
    """Retry-After as seconds; its other form, a date, needs the server's clock to be ours and is left out."""
    try:
        found = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return found if 0 <= found < float("inf") else None


def _wait(state: RetryCallState) -> float:
    """What the server asked for, or a growing random time."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, EndpointError) else None
    drawn = _BACK_OFF(state)
    return drawn if asked is None else asked + min(drawn, 0.1 * asked)
