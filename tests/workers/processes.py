"""Worker processes for the tests: real ones, that can be killed, frozen and signalled."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["tests.workers.preload"])


def until(what: Callable[[], T], seconds: float = 20.0, pause: float = 0.05) -> T:
    """The first truthy value; the deadline fails the test with the last one."""
    end = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < end, f"not within {seconds} s; the last value was {value!r}"
        time.sleep(pause)
    return value


def run_worker(
    arguments: Sequence[str], environment: dict[str, str], log: Path, prepare: Callable[[], None] | None = None
) -> None:
    """What `python -m workers` does, in a process that has torch already; `prepare` is called first."""
    os.environ.clear()
    os.environ.update(environment)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: never outlive a test run that was killed
    sys.argv[:] = ["workers", *arguments]
    import torch

    from workers.__main__ import main

    torch.set_num_threads(1)
    if prepare is not None:
        prepare()
    os._exit(main())


class WorkerProcess:
    """One worker; its log lines are JSON in a file.

    Args:
        fork: from a process with torch, in a tenth of the time; else `python -m workers` in a new interpreter.
        target: what the fork runs.
    """

    def __init__(
        self, arguments: Sequence[str], environment: dict[str, str], log: Path, fork: bool,
        target: Callable[[Sequence[str], dict[str, str], Path], None] = run_worker,
    ) -> None:  # fmt: skip
        self._log = log
        log.touch()
        if fork:
            self._process: Any = _forks.Process(target=target, args=(arguments, environment, log), daemon=True)
            self._process.start()
        else:
            with log.open("wb") as file:
                command = [sys.executable, "-m", "workers", *arguments]
                self._process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
        self.pid = int(self._process.pid)

    def exit_code(self) -> int | None:
        """None while it runs."""
        if isinstance(self._process, subprocess.Popen):
            return self._process.poll()
        code: int | None = self._process.exitcode
        return code

    def wait(self, seconds: float = 15.0) -> int:
        """The exit code, once it has ended."""
        until(lambda: self.exit_code() is not None, seconds, pause=0.01)
        code = self.exit_code()
        assert code is not None
        return code

    def send(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        if self.exit_code() is None:
            self.send(signal.SIGKILL)
            self.wait()

    def terminate(self, seconds: float = 15.0) -> int:
        """SIGTERM; the exit code."""
        self.send(signal.SIGTERM)
        return self.wait(seconds)

    def red(self) -> set[str]:
        """The parts that `/readyz` names; the worker was started with metrics_port=0."""
        port = self.events("metrics_served")[0]["port"]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=20):
                return set()
        except urllib.error.HTTPError as refused:
            with refused:
                return {reason["part"] for reason in json.load(refused)["reasons"]}

    def events(self, name: str) -> list[dict[str, Any]]:
        """Log lines of one kind."""
        lines = [line for line in self._log.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
        return [event for event in map(json.loads, lines) if event["event"] == name]

    def wait_for(self, event: str, seconds: float = 30.0, at_least: int = 1) -> list[dict[str, Any]]:
        """Log lines of one kind, once there are so many."""

        def found() -> list[dict[str, Any]]:
            events = self.events(event)
            assert events or self.exit_code() is None, self._log.read_text()
            return events if len(events) >= at_least else []

        return until(found, seconds)


class Workers:
    """Starts worker processes on one database."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self._environment = environment
        self._folder = folder
        self._started: list[WorkerProcess] = []

    def __call__(self, *arguments: str, fork: bool = True, ready: bool = True, **settings: object) -> WorkerProcess:
        """Start one and, unless told otherwise, wait until it is ready; other keyword arguments are settings."""
        given = {f"SIGHTLINE_{name.upper()}": str(value) for name, value in settings.items()}
        log = self._folder / f"worker-{len(self._started)}.log"
        worker = WorkerProcess(arguments, self._environment | given, log, fork)
        self._started.append(worker)
        if ready:
            worker.wait_for("worker_ready", 60)
        return worker

    def kill_all(self) -> None:
        """Kill those that still run."""
        for worker in self._started:
            worker.kill()
