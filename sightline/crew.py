"""Several supervised workers of one command: a process for each GPU, or several on one device."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence

from sightline.embedded.supervisor import Supervisor
from sightline.errors import ServiceMissing, UsageError
from sightline.model import read_machine
from sightline.services import supervised_worker
from sightline.settings import Settings


class Crew:
    """Worker processes that are started, watched and stopped together; each is started again when it dies.

    Args:
        settings: of all of them; with a `metrics_port`, the following ports are those of the second, third ... process.
        database_url, redis_url: of the servers.
        queues: comma-separated; None: those of a worker.
        devices: one process for each entry.
    """

    def __init__(
        self, settings: Settings, database_url: str, redis_url: str, queues: str | None, devices: Sequence[str]
    ) -> None:
        self._members: list[Supervisor] = [
            supervised_worker(settings, database_url, redis_url, queues=queues, device=device, extra=extra)
            for device, extra in zip(devices, environments(settings, devices), strict=True)
        ]

    def start(self) -> None:
        """Start all."""
        for member in self._members:
            member.start()

    def ended(self) -> int | None:
        """The exit code of a process that ended for good, for a restart does not mend it; None while all go on."""
        for member in self._members:
            if member.wait(0) is not None and member.last_exit is not None:
                return member.last_exit
        return None

    def stop(self, seconds: float, hurry: threading.Event) -> list[int | None]:
        """Stop all at once, each within `seconds`; their exit codes."""
        codes: list[int | None] = [None] * len(self._members)

        def end(number: int, member: Supervisor) -> None:
            codes[number] = member.stop(seconds, hurry=hurry)

        threads = [
            threading.Thread(target=end, args=entry, name=f"stop-{entry[0]}") for entry in enumerate(self._members)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return codes


def environments(settings: Settings, devices: Sequence[str]) -> list[dict[str, str]]:
    """What the environment of each process has beside ours: a port of its own, and its share of the cores.

    Raises:
        UsageError: there are not as many ports above `metrics_port`.
    """
    if settings.metrics_port and settings.metrics_port + len(devices) - 1 > 65535:
        raise UsageError(f"SIGHTLINE_METRICS_PORT {settings.metrics_port}: {len(devices)} processes take as many ports")
    found: list[dict[str, str]] = []
    for number in range(len(devices)):
        extra: dict[str, str] = {}
        if settings.metrics_port:
            extra["SIGHTLINE_METRICS_PORT"] = str(settings.metrics_port + number)
        if len(devices) > 1 and "OMP_NUM_THREADS" not in os.environ:
            extra["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // len(devices)))
        found.append(extra)
    return found


def devices_of(gpus: str, machine: Mapping[str, object] | None = None) -> list[str]:
    """The devices that `--gpus` names: `all`, or numbers such as `0,2`. A GPU given twice has two processes.

    Args:
        gpus: as on the command line.
        machine: what `read_machine` says, if that is known already.

    Raises:
        UsageError: it is neither.
        ServiceMissing: there is no such GPU on this machine.
    """
    words = [word.strip() for word in gpus.split(",")]
    if gpus != "all" and not all(word.isascii() and word.isdigit() for word in words):
        raise UsageError(f"--gpus {gpus!r}: expected all, or numbers such as 0,2")
    known = (read_machine() if machine is None else machine)["devices"]
    count = len(known) if isinstance(known, list) else 0
    if not count:
        raise ServiceMissing("--gpus: torch sees no GPU here; see `sightline doctor`, or run with --device cpu")
    numbers = list(range(count)) if gpus == "all" else [int(word) for word in words]
    if (wrong := next((number for number in numbers if number >= count), None)) is not None:
        raise ServiceMissing(f"--gpus {gpus}: there is no GPU {wrong} here, only 0 to {count - 1}")
    return [f"cuda:{number}" for number in numbers]
