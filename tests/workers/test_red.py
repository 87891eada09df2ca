"""`/readyz` of a running worker goes red when a stage of its engine dies or its vectors drift, and green again after it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from sightline.broker import Broker
from sightline.client import Sightline
from sightline.errors import CallFailed
from tests.workers.processes import WorkerProcess, Workers, run_worker, until


def run_breakable(arguments: Sequence[str], environment: dict[str, str], log: Path) -> None:
    """A worker whose parts break for as long as files of their names lie beside its log."""
    run_worker(arguments, environment, log, lambda: arm(log.parent))


def arm(folder: Path) -> None:
    from models.encoder import Encoder
    from tests.workers.test_golden import disturb, restore
    from workers import service, spaces
    from workers.engine import costs

    service.CHECK_SECONDS = 0.5
    observe, load = costs.Costs.observe, spaces.load_encoder

    def breakable(self: costs.Costs, *arguments: object) -> None:
        if (folder / "stage").exists():
            raise SystemExit("broken on purpose")
        observe(self, *arguments)

    def loaded(*arguments: object, **others: object) -> Encoder:
        encoder = load(*arguments, **others)
        threading.Thread(target=keep_broken, args=(encoder,), daemon=True).start()
        return encoder

    def keep_broken(encoder: Encoder) -> None:
        kept = None
        while True:
            wanted = (folder / "weights").exists()
            if wanted and kept is None:
                kept = disturb(encoder, 0.5)
            elif not wanted and kept is not None:
                kept = restore(encoder, kept)
            time.sleep(0.05)

    costs.Costs.observe = breakable
    spaces.load_encoder = loaded


def test_a_dead_stage_and_drifting_vectors_are_red_until_they_are_mended(
    space: str, start_worker: Workers, client: Sightline, broker: Broker, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    worker = WorkerProcess([], start_worker._environment | {"SIGHTLINE_METRICS_PORT": "0"}, log, True, run_breakable)
    try:
        worker.wait_for("worker_ready", 60)
        assert worker.red() == set()

        def ask(text: str) -> None:
            broker.call("encode.interactive", {"kind": "encode", "space": "tiny", "inputs": [{"text": text}]}, 10.0)

        (tmp_path / "stage").touch()
        with pytest.raises(CallFailed):
            ask("a")
        assert worker.events("engine_stage_died")
        assert worker.red() == {"spaces"}
        (tmp_path / "stage").unlink()
        ask("b")
        until(lambda: worker.red() == set(), 10)

        (tmp_path / "weights").touch()
        until(lambda: worker.red() == {"spaces"}, 20)
        assert worker.events("vectors_drifted")
        (tmp_path / "weights").unlink()
        until(lambda: worker.red() == set(), 20)
        ask("c")
        assert worker.terminate() == 0
    finally:
        worker.kill()
