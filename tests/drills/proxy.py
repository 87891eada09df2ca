"""A proxy between workers and a server that cuts, freezes or holds the connection at an exact point."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

Address = str | tuple[str, int]
"""Path of a unix socket, or host and port."""

_TAIL = 200
"""Bytes of the message before that are looked at too: a pattern may be cut in two."""


@dataclass
class Trap:
    """Holds the first connection that sends `pattern` (after it has sent `after`).

    Attributes:
        hold: "request": the server never sees it. "answer": the server sees it, the worker never hears the answer.
        hit: set once a connection is held.
    """

    pattern: bytes
    after: bytes
    hold: Literal["request", "answer"]
    hit: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def wait(self, seconds: float = 30.0) -> None:
        """Until it has caught something."""
        assert self.hit.wait(seconds), f"nobody sent {self.pattern!r} within {seconds} s"

    def release(self) -> None:
        """Let what is held go on."""
        self.released.set()


class Proxy:
    """Passes bytes on until told otherwise. A context manager.

    Args:
        server: where to connect to.
        listen: a unix socket to make; None: a free port of 127.0.0.1.

    Attributes:
        silent: the server does not learn that a worker is gone, as when its host lost power.
    """

    def __init__(self, server: Address, listen: Path | None = None) -> None:
        self._server = server
        if listen is None:
            self._socket = socket.create_server(("127.0.0.1", 0))
        else:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.bind(str(listen))
            listen.chmod(0o777)
            self._socket.listen(100)
        self.port: int = 0 if listen else self._socket.getsockname()[1]
        self._refusing = threading.Event()
        self._flowing = threading.Event()
        self._flowing.set()
        self._closed = False
        self.silent = False
        self._lock = threading.Lock()
        self._pairs: list[_Pair] = []
        self._trap: Trap | None = None
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def trap(self, pattern: bytes, *, after: bytes = b"", hold: Literal["request", "answer"] = "request") -> Trap:
        """Hold the next connection that sends this."""
        self._trap = Trap(pattern, after, hold)
        return self._trap

    def cut(self) -> int:
        """Close all connections, as a reset would; returns how many."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            pair.close()
        return len(pairs)

    def refuse(self) -> None:
        """Cut all, and close new ones at once, until `accept`."""
        self._refusing.set()
        self.cut()

    def accept(self) -> None:
        """Take connections again."""
        self._refusing.clear()

    def freeze(self) -> None:
        """Pass nothing on, in either direction, and keep all open: a half-open connection. Until `thaw`."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Pass on what was held, and all that follows."""
        self._flowing.set()

    def strand(self) -> None:
        """Pass nothing on of the connections that are open now, for ever, and keep them open; new ones work."""
        with self._lock:
            for pair in self._pairs:
                pair.stranded = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self._flowing.set()
        if self._trap is not None:
            self._trap.release()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self.cut()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            if self._refusing.is_set():
                client.close()
                continue
            try:
                server = socket.socket(socket.AF_UNIX if isinstance(self._server, str) else socket.AF_INET)
                server.connect(self._server)
            except OSError:
                client.close()
                server.close()
                continue
            pair = _Pair(self, client, server)
            with self._lock:
                self._pairs = [known for known in self._pairs if known.open]
                self._pairs.append(pair)
            pair.start()

    def flows(self) -> None:
        """Wait while the proxy is frozen."""
        self._flowing.wait()

    def caught(self, sent: bytes, past: bool) -> Trap | None:
        """The trap, if a connection has stepped into it. `past`: it has sent what comes before."""
        with self._lock:
            trap = self._trap
            if trap is None or trap.hit.is_set() or trap.pattern not in sent or not past:
                return None
            trap.hit.set()
            return trap


class _Pair:
    """One connection through the proxy."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._answers = threading.Event()
        self._answers.set()
        self.open = True
        self.stranded = False

    def start(self) -> None:
        for body in (self._requests, self._replies):
            threading.Thread(target=body, name="proxied", daemon=True).start()

    def close(self) -> None:
        self.open = False
        for end in (self._client, self._server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._answers.set()  # last: what was held is never heard

    def _requests(self) -> None:
        tail, past = b"", False
        try:
            while data := self._client.recv(2**16):
                trap = self._proxy._trap
                past = past or (trap is not None and trap.after in tail + data)
                caught = self._proxy.caught(tail + data, past)
                if caught is not None and caught.hold == "request":
                    self._hold(caught)
                elif caught is not None:
                    self._answers.clear()
                    threading.Thread(target=self._resume, args=[caught], daemon=True).start()
                tail = (tail + data)[-_TAIL:]
                self._proxy.flows()
                if not self.stranded:
                    self._server.sendall(data)
        except OSError:
            pass
        if not self._proxy.silent:
            self.close()

    def _hold(self, trap: Trap) -> None:
        """Until the trap lets go, or the worker has hung up."""
        while not trap.released.wait(0.05):
            if not self._proxy.silent and _hung_up(self._client):
                raise ConnectionResetError

    def _resume(self, trap: Trap) -> None:
        trap.released.wait()
        self._answers.set()

    def _replies(self) -> None:
        try:
            while data := self._server.recv(2**16):
                self._answers.wait()
                self._proxy.flows()
                if not self.stranded:
                    self._client.sendall(data)
        except OSError:
            pass
        self.close()


def _hung_up(end: socket.socket) -> bool:
    try:
        return end.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False


def socket_of(folder: Path, port: int = 5432) -> str:
    """The path of Postgres's unix socket in a folder."""
    return os.fspath(folder / f".s.PGSQL.{port}")
