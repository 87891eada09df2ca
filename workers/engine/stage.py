"""A supervised thread of the engine: it outlives every error, and says so."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from workers.metrics import DEATHS

log = structlog.get_logger(__name__)

LONGEST_PAUSE = 1.0
"""Seconds before a stage that died goes on; the first time it does so at once."""


class Stage:
    """Runs turns until one says that it was the last.

    Args:
        engine, name: for logs, metrics and the thread.
        turn: one piece of work; False ends the thread.
        on_death: called with what a turn let through, to fail what was in hand.

    Attributes:
        trouble: what it died of last, in words, until a turn ends well again.
    """

    def __init__(
        self, engine: str, name: str, turn: Callable[[], bool], on_death: Callable[[BaseException], object]
    ) -> None:
        self.trouble: str | None = None
        self._engine, self._name = engine, name
        self._turn, self._on_death = turn, on_death
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=f"engine-{engine}-{name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self, seconds: float) -> None:
        """Wait until it has ended, at most so long."""
        self._thread.join(seconds)

    @property
    def dead(self) -> bool:
        """It ended though nobody asked it to."""
        return self._thread.ident is not None and not self._thread.is_alive() and not self._ended

    def _run(self) -> None:
        deaths = 0
        while True:
            try:
                if not self._turn():
                    self._ended = True
                    return
                self.trouble, deaths = None, 0
            except BaseException as error:
                self.trouble = (
                    f"stage {self._name} of the engine of {self._engine} died: {type(error).__name__}: {error}"
                )
                DEATHS.labels(self._engine, self._name).inc()
                # One trace, then one line for each further death in a row.
                said = f"{type(error).__name__}: {error}"
                log.error("engine_stage_died", engine=self._engine, stage=self._name, deaths=deaths + 1, error=said,  # noqa: TRY400
                          exc_info=deaths == 0)  # fmt: skip
                self._on_death(error)
                time.sleep(min(LONGEST_PAUSE, 0.02 * deaths))
                deaths += 1
