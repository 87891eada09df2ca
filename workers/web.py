"""Fetching a link that somebody else named: over a connection of our own making, and within limits at every step.

The standard library's `http.client` speaks HTTP over a socket that it is given. A client that connects by itself would
look the host up again, and the answer may have changed since it was checked.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import socket
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from sightline.sources import WEB, shown, uri_problem
from workers.addresses import AllowedHosts, Resolve, admitted, resolve
from workers.errors import (
    ForbiddenAddress,
    ItemError,
    LinkExpired,
    NotFound,
    PermissionDenied,
    SourceRefused,
    SourceUnavailable,
    TooManyBytes,
    UnsupportedSource,
)
from workers.links import expired_at

HEAD_BYTES = 256 * 1024
"""Of status lines, headers and the framing of chunks, beside the content."""
_REDIRECTS = (301, 302, 303, 307, 308)
_AGAIN = (408, 425, 429)
_PIECE = 64 * 1024


@dataclass(frozen=True)
class WebLimits:
    """What one link may cost.

    Args:
        seconds: from the first look-up to the last byte, all redirects together.
        idle_seconds: between two bytes, and for a connection to be made.
        redirects: that are followed.
    """

    seconds: float = 30.0
    idle_seconds: float = 10.0
    redirects: int = 5


class Web:
    """Fetches http(s) sources. Safe in threads.

    Args:
        max_bytes: of the content.
        limits: of time and redirects.
        allowed_hosts: see `AllowedHosts`.
        look_up: the resolver.

    Raises:
        ValueError: an allowed host is none.
    """

    def __init__(
        self,
        max_bytes: int,
        limits: WebLimits | None = None,
        allowed_hosts: Sequence[str] = (),
        look_up: Resolve = resolve,
    ) -> None:
        self._max_bytes = max_bytes
        self._limits = limits or WebLimits()
        self._allowed = AllowedHosts(allowed_hosts)
        self._look_up = look_up
        self._tls = ssl.create_default_context()
        self._headers = {
            "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity", "Connection": "close",
            "User-Agent": f"sightline/{version('sightline')}",
        }  # fmt: skip

    def fetch(self, url: str, name: str) -> bytes:
        """The content of a link.

        Raises:
            ItemError: its class says what is wrong; SourceUnavailable is worth another try.
        """
        end = time.monotonic() + self._limits.seconds
        link = url
        for _ in range(self._limits.redirects + 1):
            found = self._one(link, name, end)
            if isinstance(found, bytes):
                return found
            link = self._next(link, found, name)
        raise SourceRefused(
            f"{name}: {shown(url)} leads through more than {self._limits.redirects} redirects (SIGHTLINE_MAX_REDIRECTS)"
        )

    def _one(self, url: str, name: str, end: float) -> bytes | str:
        """The content, or where else it is to be found."""
        parts, host, port = _parsed(url, name)
        addresses = admitted(host, port, self._allowed, name, self._look_up)
        try:
            with self._connected(addresses, port, end) as plain:
                secure = parts.scheme.lower() == "https"
                with self._tls.wrap_socket(plain, server_hostname=host) if secure else plain as connected:
                    return self._answer(
                        _Wire(connected, self._limits, end, self._max_bytes + HEAD_BYTES), parts, host, url, name
                    )
        except _LateError as error:
            raise SourceUnavailable(
                f"{name}: {shown(url)} did not arrive within {self._limits.seconds:g} s (SIGHTLINE_FETCH_SECONDS)"
            ) from error
        except _FloodError as error:
            raise self._too_large(url, name) from error
        except TimeoutError as error:
            raise SourceUnavailable(
                f"{name}: {shown(url)}: nothing came from {host} for {self._limits.idle_seconds:g} s "
                "(SIGHTLINE_FETCH_IDLE_SECONDS)"
            ) from error
        except ssl.SSLCertVerificationError as error:
            raise SourceRefused(
                f"{name}: the certificate of {host} is not to be trusted: {error.verify_message}"
            ) from error
        except http.client.IncompleteRead as error:
            raise _cut_off(url, name) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise SourceUnavailable(f"{name}: fetching {shown(url)} failed: {_words(error)}") from error

    def _connected(self, addresses: Sequence[str], port: int, end: float) -> socket.socket:
        """A connection to the first of the addresses that takes one. Raises OSError."""
        refusal: OSError | None = None
        for address in addresses:
            try:
                # Of a numeric address nothing is looked up.
                return socket.create_connection((address, port), timeout=_patience(self._limits, end))
            except OSError as error:
                refusal = error
        assert refusal is not None
        raise refusal

    def _answer(self, wire: _Wire, parts: SplitResult, host: str, url: str, name: str) -> bytes | str:
        connection = http.client.HTTPConnection(host)
        connection.sock = wire
        connection.request("GET", _target(parts), headers={"Host": _host_header(parts), **self._headers})
        with connection.getresponse() as response:
            status = response.status
            if status in _REDIRECTS and (place := response.getheader("Location")):
                return place
            if status != 200:
                raise _refusal(status, response.reason, url, name)
            encoding = response.getheader("Content-Encoding", "identity").strip().lower()
            if encoding not in ("", "identity"):
                raise SourceRefused(
                    f"{name}: {shown(url)} is sent packed ({encoding:.30}), although it was asked for as it is"
                )
            if response.length is not None and response.length > self._max_bytes:
                raise self._too_large(url, name, response.length)
            return self._body(response, url, name)

    def _body(self, response: http.client.HTTPResponse, url: str, name: str) -> bytes:
        data = bytearray()
        while piece := response.read(_PIECE):
            data += piece
            if len(data) > self._max_bytes:
                raise self._too_large(url, name)
        if response.length:  # http.client says nothing of a body that ended before its announced length
            raise _cut_off(url, name, len(data), response.length)
        return bytes(data)

    def _next(self, url: str, place: str, name: str) -> str:
        try:
            link = urljoin(url, place)
            parts = urlsplit(link)
        except ValueError as error:
            raise SourceRefused(f"{name}: {shown(url)} redirects to what is no link") from error
        if parts.scheme.lower() not in WEB:
            raise SourceRefused(
                f"{name}: {shown(url)} redirects to {parts.scheme or 'nothing'}:, only http(s) is followed"
            )
        if urlsplit(url).scheme.lower() == "https" and parts.scheme.lower() == "http":
            raise SourceRefused(
                f"{name}: {shown(url)} redirects from https to http, where anybody may change the content"
            )
        return link

    def _too_large(self, url: str, name: str, size: int | None = None) -> TooManyBytes:
        counted = f"{size:,}" if size is not None else f"more than {self._max_bytes:,}"
        return TooManyBytes(f"{name}: {shown(url)} has {counted} bytes; SIGHTLINE_MAX_BYTES admits {self._max_bytes:,}")


class _LateError(Exception):
    """The time for the whole link is spent."""


class _FloodError(Exception):
    """More came than content and headers may have together."""


def _patience(limits: WebLimits, end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise _LateError
    return min(limits.idle_seconds, left)


class _Wire(io.RawIOBase):
    """A socket as http.client uses one: every read is bounded in idle time, total time and bytes."""

    def __init__(self, connected: socket.socket, limits: WebLimits, end: float, max_bytes: int) -> None:
        self._socket = connected
        self._limits = limits
        self._end = end
        self._left = max_bytes

    def sendall(self, data: bytes) -> None:
        """Send the request."""
        self._socket.settimeout(_patience(self._limits, self._end))
        self._socket.sendall(data)

    def makefile(self, *_: object) -> io.BufferedReader:
        """What the answer is read from."""
        return io.BufferedReader(self, _PIECE)

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what is there, at least one byte; 0 at the end."""
        patience = _patience(self._limits, self._end)
        self._socket.settimeout(patience)
        try:
            count = self._socket.recv_into(buffer)
        except TimeoutError as error:
            if patience < self._limits.idle_seconds:  # the end of the whole came first
                raise _LateError from error
            raise
        self._left -= count
        if self._left < 0:
            raise _FloodError
        return count

    def close(self) -> None:
        """Nothing: the socket belongs to whoever connected it."""


def _parsed(url: str, name: str) -> tuple[SplitResult, str, int]:
    """A link's parts, its host as it is looked up, and its port."""
    problem = uri_problem(url)
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".")
        port = parts.port or (443 if parts.scheme.lower() == "https" else 80)
        if not host.isascii():
            host = host.encode("idna").decode()
    except ValueError as error:
        raise UnsupportedSource(f"{name}: {shown(url)} is no link: {error}") from error
    if problem is not None or not host:
        raise UnsupportedSource(f"{name}: {problem or 'the uri names no host'}")
    if "%" in host or any(char <= " " for char in host):
        raise UnsupportedSource(f"{name}: {shown(url)} names a host that cannot be")
    last = host.rpartition(".")[2]
    if ":" not in host and (last.isdigit() or last.startswith("0x")):
        with suppress(ValueError):
            ipaddress.IPv4Address(host)  # four decimal numbers
            return parts, host, port
        raise ForbiddenAddress(f"{name}: {host} is an address in disguise: write it as four decimal numbers")
    return parts, host, port


def _target(parts: SplitResult) -> str:
    """Path and query as they are sent; what had to be escaped and was not is escaped."""
    kept = "/%:@!$&'()*+,;=~?-._[]|"
    return (quote(parts.path, safe=kept) or "/") + (f"?{quote(parts.query, safe=kept)}" if parts.query else "")


def _host_header(parts: SplitResult) -> str:
    netloc = parts.netloc
    return netloc if netloc.isascii() else netloc.encode("idna").decode()


def _refusal(status: int, reason: str, url: str, name: str) -> ItemError:
    answer = f"{status} {reason:.60}".strip()
    if status in (404, 410):
        return NotFound(f"{name}: {shown(url)} is not there ({answer})")
    if status in (400, 401, 403) and (ended := expired_at(url)) is not None:
        return LinkExpired(f"{name}: the signed link {shown(url)} expired on {ended:%Y-%m-%d at %H:%M} UTC ({answer})")
    if status in (401, 403):
        return PermissionDenied(f"{name}: {shown(url)} is not for everybody ({answer})")
    if status >= 500 or status in _AGAIN:
        return SourceUnavailable(f"{name}: {shown(url)} cannot be had now ({answer})")
    return SourceRefused(f"{name}: {shown(url)} was answered with {answer}")


def _cut_off(url: str, name: str, got: int | None = None, lacking: int | None = None) -> SourceUnavailable:
    counted = f": {lacking:,} of {got + lacking:,} bytes are missing" if got is not None and lacking else ""
    return SourceUnavailable(f"{name}: {shown(url)} ended before all of it had come{counted}")


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
