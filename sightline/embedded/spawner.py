"""Start child processes that die with this one, are untouched by Ctrl-C in the terminal, and inherit no files."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from sightline.embedded.account import Account
from sightline.errors import ServiceMissing

_TETHER = Path(__file__).with_name("tether.py")


def spawn(
    command: Sequence[str],
    *,
    death_signal: signal.Signals,
    account: Account | None = None,
    env: Mapping[str, str] | None = None,
    **popen: Any,
) -> subprocess.Popen[bytes]:
    """Start `command` in a session of its own, as `account`; the kernel sends it `death_signal` when we die (Linux).

    Ctrl-C in the terminal does not reach it, and it inherits no file but its standard ones. `popen` goes to
    `subprocess.Popen`. Raises ServiceMissing when the program does not exist.
    """
    program = shutil.which(command[0])
    if program is None:
        raise ServiceMissing(f"cannot start {command[0]!r}: no such program")
    who = account or Account(-1, -1)
    variables = os.environ if env is None else env
    tether = [sys.executable, "-I", "-S", str(_TETHER), str(int(death_signal)), str(os.getpid())]
    words = [*tether, str(who.uid), str(who.gid), "=".join(variables), str(Path(program).absolute()), *command[1:]]
    return _spawner.start_process(words, {**popen, "env": {**os.environ, **variables}})


class _Spawner:
    """The one thread that forks: the death signal of a child fires when the thread that forked it ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._orders: queue.SimpleQueue[tuple[list[str], Mapping[str, Any], Future[subprocess.Popen[bytes]]]]
        self._thread: threading.Thread | None = None

    def start_process(self, words: list[str], popen: Mapping[str, Any]) -> subprocess.Popen[bytes]:
        """Fork in the thread, which a forked copy of this process starts anew."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._orders = queue.SimpleQueue()
                self._thread = threading.Thread(target=self._run, name="sightline-spawner", daemon=True)
                self._thread.start()
        started: Future[subprocess.Popen[bytes]] = Future()
        self._orders.put((words, popen, started))
        try:
            return started.result()
        except BaseException:  # Ctrl-C while waiting: nobody would know of this child
            started.add_done_callback(lambda done: None if done.exception() else _discard(done.result()))
            raise

    def _run(self) -> None:
        while True:
            words, popen, started = self._orders.get()
            try:
                started.set_result(subprocess.Popen(words, start_new_session=True, close_fds=True, **popen))
            except BaseException as error:  # noqa: BLE001 - handed to the caller, this thread must live
                started.set_exception(error)


_spawner = _Spawner()


def _discard(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
