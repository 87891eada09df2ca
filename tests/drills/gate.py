"""A gate before the forward of a worker, to catch it in the middle of a batch."""

from __future__ import annotations

from pathlib import Path

from tests.drills.actor import Actor
from tests.drills.sabotage import GATE
from tests.workers.processes import until


class Gate:
    """Stands before the forward of those workers that were told of it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.faults = {GATE: path}

    def close(self) -> None:
        """Hold every batch from now on."""
        self._path.touch()

    def open(self) -> None:
        """Let the batches through."""
        self._path.unlink(missing_ok=True)

    def wait(self, actor: Actor, seconds: float = 30.0) -> None:
        """Until a worker stands before it, in the middle of a batch."""
        mark = Path(f"{self._path}.{actor.pid}")
        until(mark.exists, seconds, pause=0.01)
