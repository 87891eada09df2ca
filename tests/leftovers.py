"""What a worker that was stopped in this process may have left behind."""

from __future__ import annotations

import contextlib
import gc
import threading
from pathlib import Path

from tests.workers.processes import until

LeftOpen = tuple[list[str], int]


def left_open() -> LeftOpen:
    """Names of the living threads, and how many sockets are open."""
    gc.collect()
    sockets = 0
    for handle in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # of this very loop
            sockets += str(handle.readlink()).startswith("socket:")
    return sorted(thread.name for thread in threading.enumerate()), sockets


def settled(wanted: LeftOpen) -> LeftOpen:
    """What is open once what is ending had a few seconds to come to `wanted`."""
    with contextlib.suppress(AssertionError):
        until(lambda: left_open() == wanted, 5)
    return left_open()
