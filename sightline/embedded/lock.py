"""One holder per state folder: a file lock that the kernel releases when the holder dies, however it dies."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import sys
import textwrap
from datetime import UTC, datetime
from pathlib import Path

from sightline.embedded.process import wait_until
from sightline.errors import ConfigurationError, StackHeld

_PATIENCE = 0.5  # seconds: `is_held` of another process holds the lock for an instant


class HomeLock:
    """The lock of a state folder. Children do not inherit it: the descriptor closes on exec."""

    def __init__(self, home: Path) -> None:
        self.path = home / "lock"
        self._file: int | None = None

    def acquire(self) -> None:
        """Take the lock and write who holds it. Raises StackHeld, with the pid, when another process has it."""
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(f"cannot open {self.path}: {error.strerror}; set SIGHTLINE_HOME") from error
        try:
            self._take(file)
            command = textwrap.shorten(shlex.join(sys.orig_argv), 120)
            holder = {"pid": os.getpid(), "command": command, "since": datetime.now(UTC).isoformat()}
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps(holder).encode(), 0)
        except BaseException:
            os.close(file)
            raise
        self._file = file

    def _take(self, file: int) -> None:
        if not wait_until(lambda: _locks(file, fcntl.LOCK_EX), _PATIENCE):
            raise StackHeld(self._describe_holder())

    def release(self) -> None:
        """Give the lock back. The file stays: to delete it would let two holders lock two files of one name."""
        if self._file is not None:
            os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = None

    def _describe_holder(self) -> str:
        who = "another process"
        with contextlib.suppress(ValueError, KeyError, OSError):  # not written yet
            holder = json.loads(self.path.read_text())
            since = datetime.fromisoformat(holder["since"]).astimezone().strftime("%Y-%m-%d %H:%M:%S")
            who = f"process {holder['pid']} ({holder['command']}) since {since}"
        return (
            f"the stack in {self.path.parent} is held by {who}; `sightline dsn` prints how to connect to it; "
            "to start it here, stop that process first"
        )


def is_held(home: Path) -> bool:
    """Tell whether a living process holds the stack of `home`."""
    try:
        file = os.open(home / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _locks(file, fcntl.LOCK_SH)
    finally:
        os.close(file)


def _locks(file: int, how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
