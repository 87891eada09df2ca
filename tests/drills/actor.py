"""Worker processes of a drill: forked as in the other tests, with the faults of `sabotage` in them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from tests.workers.processes import WorkerProcess, run_worker, until

_lock = threading.Lock()
"""Drills run side by side in threads; multiprocessing's children are not for several threads at once."""


def _work(arguments: Sequence[str], environment: dict[str, str], log: Path) -> None:
    """A worker with the faults that its environment asks for."""

    def install() -> None:
        from tests.drills.sabotage import install

        install()

    run_worker(arguments, environment, log, install)


class Actor(WorkerProcess):
    """One worker process."""

    def __init__(self, arguments: Sequence[str], environment: dict[str, str], log: Path) -> None:
        with _lock:
            super().__init__(arguments, environment, log, fork=True, target=_work)

    def exit_code(self) -> int | None:
        with _lock:
            return super().exit_code()

    def freeze(self) -> None:
        """SIGSTOP: it neither beats nor works, and keeps its connections."""
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self.send(signal.SIGCONT)


class Supervised:
    """`sightline worker`: a supervisor and the worker that it starts again."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._log = log
        site = Path(__file__).with_name("site")
        paths = [str(site), str(Path(__file__).parents[2])]
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sightline", "worker"],
                env=environment | {"PYTHONPATH": os.pathsep.join(paths)}, stdout=file, stderr=file,
            )  # fmt: skip

    def text(self) -> str:
        """What both have logged."""
        return self._log.read_text()

    def wait_until_ready(self, times: int = 1, seconds: float = 180.0) -> None:
        """Until a worker was ready for the so-manieth time."""
        until(lambda: len(re.findall('"worker_ready"', self.text())) >= times, seconds)

    def exit_code(self) -> int | None:
        """None while the supervisor runs."""
        return self._process.poll()

    def terminate(self, seconds: float = 30.0) -> int:
        """SIGTERM to the supervisor, which stops its worker; the exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(seconds)

    def kill(self) -> None:
        """SIGKILL to the supervisor: the worker gets SIGTERM by that (Linux)."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)
