"""`/livez`, `/readyz` and `/metrics` of a worker, over HTTP, for Kubernetes and Prometheus."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import structlog
from prometheus_client import make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from sightline.errors import ServiceMissing
from workers.metrics import REGISTRY
from workers.readiness import Readiness

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

log = structlog.get_logger(__name__)


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
        """A probe every second is no news."""


class Endpoint:
    """Serves the three pages in a thread of its own.

    Args:
        host, port: to listen on; port 0 takes a free one.
        readiness: what `/readyz` asks.

    Attributes:
        port: that was taken.

    Raises:
        ServiceMissing: the port is taken, or the address is not of this machine.
    """

    def __init__(self, host: str, port: int, readiness: Readiness) -> None:
        self._readiness = readiness
        self._metrics = make_wsgi_app(REGISTRY)
        try:
            self._server = make_server(host, port, self._answer, ThreadingWSGIServer, _Silent)
        except OSError as error:
            raise ServiceMissing(
                f"metrics cannot be served on {host}:{port}: {error.strerror or error}; choose another "
                f"SIGHTLINE_METRICS_PORT (0 takes a free one) or SIGHTLINE_METRICS_HOST"
            ) from error
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="endpoint", daemon=True)
        self._thread.start()
        log.info("metrics_served", host=host, port=self.port)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(2.0)

    def _answer(self, environment: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        path = environment.get("PATH_INFO", "")
        if path == "/metrics":
            pages: Any = self._metrics
            return list(pages(environment, start))
        if path == "/livez":
            return _json(start, "200 OK", {"alive": True})
        if path in ("/readyz", "/healthz"):  # the second is what load balancers ask by habit
            reasons = self._readiness.reasons()
            return _json(start, "503 Service Unavailable" if reasons else "200 OK",
                         {"ready": not reasons, "reasons": reasons})  # fmt: skip
        return _json(start, "404 Not Found", {"error": f"there is no {path}, only /livez, /readyz and /metrics"})


def _json(start: StartResponse, status: str, body: dict[str, Any]) -> list[bytes]:
    content = json.dumps(body).encode()
    start(status, [("Content-Type", "application/json"), ("Content-Length", str(len(content)))])
    return [content]
