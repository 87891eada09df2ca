"""Items that hang."""

from __future__ import annotations

import contextlib
import http.server
import threading
import time
from collections.abc import Iterator

from PIL import Image

from sightline.item import Item
from tests.drills.catalogue import drill
from tests.drills.sabotage import DRIP
from tests.drills.stage import Report, Stage


class _Drip(http.server.BaseHTTPRequestHandler):
    """Sends a byte a second, for ever."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(10**9))
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(b"x")
                time.sleep(1)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Nothing."""


@contextlib.contextmanager
def dripping() -> Iterator[str]:
    """The URL of a server that never comes to an end."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Drip)
    server.daemon_threads = True
    server.block_on_close = False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


@drill()
def hung_download(stage: Stage) -> Report:
    """A source that sends a byte a second: its item fails, its neighbours are stored, the slot is free again."""
    file = stage.folder / "hangs.drip"
    Image.new("RGB", (40, 40)).save(file, "PNG")
    with dripping() as url:
        stage.worker(faults={DRIP: url}, item_seconds=3)
        items = [f"h {n}" for n in range(99)]
        stage.fault()
        job = stage.submit([*items[:50], Item(path=file, external_id="hangs"), *items[50:]])
        stage.recovered(lambda: job.progress().finished, 300)
        progress = job.progress()
        assert (progress.done, progress.failed) == (99, 1)
        assert [failure.external_id for failure in job.failures()] == ["hangs"]
        return stage.settle(job, stage.submit(300))
