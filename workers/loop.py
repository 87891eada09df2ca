"""A supervised thread: does one thing again and again, and outlives every error of it."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)

LONGEST_BACK_OFF = 5.0


class Loop:
    """Calls `body` every `seconds` until stopped. An exception is logged, and the next try comes after a growing pause.

    Args:
        name: of the thread, and in the logs.
        body: one turn; called in the thread. What it raises never ends the loop. It may return another pause.
        seconds: pause between two turns.
        longest: pause between two tries of what keeps failing.
    """

    def __init__(
        self, name: str, body: Callable[[], float | None], seconds: float, longest: float = LONGEST_BACK_OFF
    ) -> None:
        self._name = name
        self._body = body
        self._seconds = seconds
        self._longest = longest
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Ask it to end and wait for the turn in hand, at most `timeout` seconds; returns whether it ended."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        failed = 0
        while not self._stopped.is_set():
            pause = self._seconds
            try:
                pause = self._body() or pause
                if failed:
                    log.info("loop_recovered", loop=self._name, after_errors=failed)
                failed = 0
            except BaseException as error:
                failed += 1
                pause = min(self._longest, max(self._seconds, 0.1) * 2**failed) * random.uniform(0.5, 1)  # noqa: S311
                # One trace, then one line for each further failure of the same kind.
                log.warning("loop_failed", loop=self._name, error=f"{type(error).__name__}: {error}".strip(),
                            again_in=round(pause, 2), exc_info=failed == 1)  # fmt: skip
            self._stopped.wait(pause)
