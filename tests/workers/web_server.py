"""A web server that misbehaves as told: each path is a way to answer."""

from __future__ import annotations

import contextlib
import gzip
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.workers.conftest import png

PICTURE = png(7)


class WebServer:
    """Answers raw HTTP on a port of 127.0.0.1; `asked` are the heads of the requests that came."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.asked: list[str] = []
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self._ways: dict[str, Callable[[socket.socket], None]] = {}
        self._start(self._accept)

    def way(self, path: str, answer: bytes | Callable[[socket.socket], None]) -> str:
        """Let a path be answered with these bytes, or by this function; returns its URL."""
        self._ways[path] = answer if callable(answer) else lambda connection: connection.sendall(answer)
        return self.url(path)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http{'s' if self._tls else ''}://{host}:{self.port}{path}"

    def close(self) -> None:
        self._stopped.set()
        self._listener.close()
        for thread in self._threads:
            thread.join(5)

    def drip(self, head: bytes, piece: bytes, seconds: float) -> Callable[[socket.socket], None]:
        """An answer that begins with `head` and goes on with `piece` every so many seconds, for ever."""

        def answer(connection: socket.socket) -> None:
            connection.sendall(head)
            while not self._stopped.wait(seconds):
                connection.sendall(piece)

        return answer

    def _start(self, what: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=what, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        self._listener.settimeout(0.1)
        while not self._stopped.is_set():
            with contextlib.suppress(OSError):
                self._start(self._serve, self._listener.accept()[0])

    def _serve(self, plain: socket.socket) -> None:
        with contextlib.suppress(OSError):
            plain.settimeout(5)
            with self._tls.wrap_socket(plain, server_side=True) if self._tls else plain as connection:
                head = b""
                while b"\r\n\r\n" not in head and (piece := connection.recv(65536)):
                    head += piece
                self.asked.append(head.decode("latin-1"))
                path = head.split(b" ")[1].decode().partition("?")[0]
                self._ways.get(path, lambda it: it.sendall(answer(b"", "404 Not Found")))(connection)


def answer(body: bytes, status: str = "200 OK", *headers: str, length: int | None = None) -> bytes:
    """A whole answer; `length` is announced instead of the true one."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def redirect(place: str, status: str = "302 Found") -> bytes:
    return answer(b"", status, f"Location: {place}")


def packed(megabytes: int) -> bytes:
    """An answer that unpacks to so many megabytes."""
    return answer(gzip.compress(bytes(megabytes * 2**20)), "200 OK", "Content-Encoding: gzip")


@contextlib.contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[WebServer]:
    server = WebServer(tls)
    try:
        yield server
    finally:
        server.close()


def certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS for a host name, and the certificate that its clients have to trust."""
    import subprocess

    key, pem = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-keyout", key, "-out", pem, "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    return context, pem
