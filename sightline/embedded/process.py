"""Processes: recognised by pid and start time, found by command line, stopped in steps."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc/self/stat")


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process for ever: a pid alone is given to another process after a while or after a restart of the machine."""

    pid: int
    started: str


def identify(pid: int) -> ProcessId | None:
    """Return the identity of a living process; None when there is none, or only a zombie that nobody has collected."""
    if not _PROC.exists():
        out = _ps("-o", "stat=,lstart=", "-p", str(pid)).split(maxsplit=1)
        return None if len(out) < 2 or out[0].startswith("Z") else ProcessId(pid, out[1].strip())
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[0] in "ZX":
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ProcessId(pid, f"{boot}:{fields[19]}")


def commands() -> dict[int, list[str]]:
    """Map the pid of each process to its command line, in words."""
    if not _PROC.exists():
        rows = (line.split() for line in _ps("-axww", "-o", "pid=,command=").splitlines())
        return {int(words[0]): words[1:] for words in rows if len(words) > 1}
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it ended meanwhile
                words = (entry / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
                found[int(entry.name)] = words
    return found


def stop_child(child: subprocess.Popen[bytes], steps: Sequence[tuple[signal.Signals, float]]) -> int:
    """Send each signal in turn and wait its seconds, until the child has ended; return its exit status."""
    for number, seconds in steps:
        if child.poll() is not None:
            break
        child.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(seconds)
    return child.wait()


def stop_strangers(victims: Sequence[ProcessId], steps: Sequence[tuple[signal.Signals, float]]) -> None:
    """Do the same to processes that are not our children, as long as each pid is still the process it was."""

    def living() -> list[ProcessId]:
        return [victim for victim in victims if identify(victim.pid) == victim]

    for number, seconds in steps:
        for victim in living():
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim.pid, number)
        if wait_until(lambda: not living(), seconds):
            return


def wait_until(true: Callable[[], bool], seconds: float, pause: float = 0.02) -> bool:
    """Poll `true` until it holds or `seconds` are over; return whether it holds."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


def _ps(*arguments: str) -> str:
    environment = {"LC_ALL": "C", "PATH": os.defpath}
    return subprocess.run(["ps", *arguments], capture_output=True, text=True, check=False, env=environment).stdout  # noqa: S607
