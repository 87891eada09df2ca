"""Keep one child process running: start it again when it dies, stop it when asked, leave nothing of it behind."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Self

from sightline.embedded.files import open_log, record, recorded
from sightline.embedded.process import stop_strangers
from sightline.embedded.spawner import spawn

_logger = logging.getLogger(__name__)

_BACK_OFF = (0.5, 10.0)  # seconds before the first and before every later restart, doubled in between
_HEALTHY_SECONDS = 60.0  # a child that lived this long starts with a fresh back-off


class Supervisor:
    """Runs `command` in a session of its own and restarts it, with exponential back-off, whenever it ends unasked.

    `env` replaces the environment (None: ours). Output goes to the file `log`, or to our own output. An exit with one
    of `final_codes` (2: the command line is wrong) is not retried. `record` names a file that says which process runs:
    with it, a child that outlived a killed supervisor is ended before a new one starts. `on_lost` is called with the
    pid of each child that ended unasked. The child gets SIGTERM when we die (Linux).
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        name: str = "worker",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        log: Path | None = None,
        record: Path | None = None,
        final_codes: Collection[int] = (2,),
        back_off: tuple[float, float] = _BACK_OFF,
        healthy_seconds: float = _HEALTHY_SECONDS,
        on_lost: Callable[[int], None] | None = None,
    ) -> None:
        self.name = name
        self.restarts = 0
        self.last_exit: int | None = None
        self._command = list(command)
        self._env = None if env is None else dict(env)
        self._cwd = cwd
        self._log = log
        self._record = record
        self._final_codes = frozenset(final_codes)
        self._back_off = back_off
        self._healthy_seconds = healthy_seconds
        self._on_lost = on_lost
        self._mutex = threading.Lock()  # held to signal or collect the child: no pid is signalled after that
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._finished = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> Self:
        """Start the first child and a thread that watches it. Raises ServiceMissing when the program does not exist."""
        if self._thread is not None:
            return self
        leftover = recorded(self._record) if self._record else None
        if leftover is not None:
            _logger.warning("%s: ending the one of an earlier run, pid %d", self.name, leftover.pid)
            stop_strangers([leftover], ((signal.SIGTERM, 5.0), (signal.SIGTERM, 2.0), (signal.SIGKILL, 5.0)))
        self._spawn()
        self._thread = threading.Thread(target=self._watch, name=f"supervise-{self.name}", daemon=True)
        self._thread.start()
        return self

    @property
    def alive(self) -> bool:
        """Whether the child runs at this moment (between two restarts it does not)."""
        return self._child is not None

    @property
    def pid(self) -> int | None:
        """The pid of the running child."""
        child = self._child
        return child.pid if child else None

    def wait(self, timeout: float | None = None) -> int | None:
        """Block until the supervisor ends (by `stop` or a final exit code); return the last exit status, or None."""
        return self.last_exit if self._finished.wait(timeout) else None

    def stop(self, timeout: float = 25.0, grace: float = 5.0, hurry: threading.Event | None = None) -> int | None:
        """End the child for good and return its exit status (negative: the signal that ended it).

        SIGTERM, then `timeout` seconds to finish its work, or until `hurry` is set; a second SIGTERM, then `grace`
        seconds; then SIGKILL for the whole process group.
        """
        self._stopping.set()
        if self._thread is None:
            return None
        self._signal(signal.SIGTERM)
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0 and not (hurry and hurry.is_set()):
            if self._finished.wait(min(left, 0.1)):
                return self.last_exit
        self._signal(signal.SIGTERM)
        if self._finished.wait(grace):
            return self.last_exit
        _logger.warning("%s: pid %s ignores SIGTERM; killing it", self.name, self.pid)
        self._signal(signal.SIGKILL)
        self._finished.wait()
        return self.last_exit

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _signal(self, number: signal.Signals) -> None:
        with self._mutex:
            if self._child is None:
                return
            if number == signal.SIGKILL:
                os.killpg(self._child.pid, number)
            else:
                os.kill(self._child.pid, number)

    def _spawn(self) -> None:
        with contextlib.ExitStack() as files:
            output = None
            if self._log:
                self._log.parent.mkdir(parents=True, exist_ok=True)
                output = files.enter_context(open_log(self._log))
            child = spawn(
                self._command,
                death_signal=signal.SIGTERM,
                env=self._env,
                cwd=self._cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
            )
        if self._record:
            record(self._record, child.pid)
        with self._mutex:
            self._child = child
        _logger.info("%s: started, pid %d", self.name, child.pid)

    def _watch(self) -> None:
        try:
            delay = self._back_off[0]
            while True:
                began = time.monotonic()
                pid = self.pid
                self.last_exit = self._collect()
                if self._stopping.is_set():
                    return
                self._report(pid)
                if self.last_exit in self._final_codes:
                    _logger.error("%s: %s, which a restart does not mend", self.name, ending(self.last_exit))
                    return
                if time.monotonic() - began >= self._healthy_seconds:
                    delay = self._back_off[0]
                _logger.warning("%s: %s; starting it again in %.1f s", self.name, ending(self.last_exit), delay)
                if not self._respawn(delay):
                    return
                delay = min(2 * delay, self._back_off[1])
        finally:
            if self._record:
                self._record.unlink(missing_ok=True)
            self._finished.set()

    def _report(self, pid: int | None) -> None:
        if self._on_lost is None or pid is None:
            return
        try:
            self._on_lost(pid)
        except Exception:  # a supervisor must outlive whatever is wrong today
            _logger.exception("%s: the end of pid %d was not reported", self.name, pid)

    def _respawn(self, delay: float) -> bool:
        """Wait, then start the next child; keep trying while even that fails (no memory, too many processes)."""
        while not self._stopping.wait(delay):
            try:
                self._spawn()
            except Exception:  # a supervisor must outlive whatever is wrong today
                _logger.exception("%s: cannot be started", self.name)
                delay = self._back_off[1]
                continue
            self.restarts += 1
            if self._stopping.is_set():  # `stop` may have looked before there was a child
                self._signal(signal.SIGTERM)
                self.last_exit = self._collect()
                return False
            return True
        return False

    def _collect(self) -> int:
        """Wait for the child to end, end whatever it left in its process group, and return its exit status."""
        child = self._child
        assert child is not None
        if hasattr(os, "waitid"):  # look without collecting: until then nobody else can get its pid, or its group's
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        else:
            child.wait()
        with self._mutex:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
                os.killpg(child.pid, signal.SIGKILL)
            status = child.wait()
            self._child = None
        return status


def ending(status: int) -> str:
    """How a child ended, in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"ended by signal {-status}"
