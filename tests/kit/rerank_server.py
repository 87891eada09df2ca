"""A real HTTP server in the shape of Cohere's and Jina's rerank API: it scores by the words that two texts share."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


def overlap(query: str, document: str) -> float:
    """Share of the words of either text that both have."""
    a, b = set(query.lower().split()), set(document.lower().split())
    return len(a & b) / max(1, len(a | b))


class RerankServer:
    """Use as a context manager. `answers`: what to answer instead, one each, as (status, headers, body)."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.answers: list[tuple[int, dict[str, str], Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append(payload)
                outer.keys.append(self.headers.get("Authorization"))
                scores = [overlap(payload["query"], document) for document in payload["documents"]]
                order = sorted(range(len(scores)), key=lambda place: -scores[place])
                body: Any = {"results": [{"index": place, "relevance_score": scores[place]} for place in order]}
                status, headers = (200 if self.path == "/v1/rerank" else 404), {}
                if outer.answers:
                    status, headers, body = outer.answers.pop(0)
                content = json.dumps(body).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
