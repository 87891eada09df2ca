"""Small files of the state folder: private, replaced in one step; logs that do not grow for ever."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import IO

from sightline.embedded.process import ProcessId, identify


def record(path: Path, pid: int) -> None:
    """Write which process runs, so that the next start finds it after a crash of this one."""
    identity = identify(pid)
    if identity is not None:
        write_private(path, json.dumps(asdict(identity)))


def recorded(path: Path) -> ProcessId | None:
    """Return the process that `record` wrote to `path` when it still lives."""
    try:
        identity = ProcessId(**json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return identity if identify(identity.pid) == identity else None


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step, readable by its owner alone."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        out.write(text)
    fresh.replace(path)


def open_log(path: Path, limit: int = 8 * 2**20) -> IO[bytes]:
    """Open a log to append to, private to its owner; one over `limit` bytes first becomes `<name>.1`."""
    if path.exists() and path.stat().st_size > limit:
        path.replace(path.with_name(path.name + ".1"))
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


def tail(path: Path, since: int = 0, lines: int = 20) -> str:
    """Return the last lines that were written to a log after byte `since`, indented."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as log:
        log.seek(max(since, path.stat().st_size - 16_384))
        return "\n".join("  " + line for line in log.read().decode(errors="replace").splitlines()[-lines:])
    return ""
