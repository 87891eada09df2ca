"""SIGINT and SIGTERM as events: the first asks a process to stop, the second to stop at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

HANDLED = (signal.SIGINT, signal.SIGTERM)


class StopSignals(threading.Event):
    """Set by the first signal; `again` is set by the second."""

    def __init__(self) -> None:
        super().__init__()
        self.again = threading.Event()
        self._count = 0

    def handle(self, _number: int, _frame: FrameType | None) -> None:
        """The handler. It interrupts the main thread anywhere, inside `wait` too: another thread sets the events."""
        self._count += 1
        event: threading.Event = self if self._count == 1 else self.again
        threading.Thread(target=event.set, name="signalled", daemon=True).start()


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Handle the signals until the end of the block, in the main thread.

    Children run in sessions of their own: Ctrl-C reaches this process alone.
    """
    stop = StopSignals()
    before = {number: signal.signal(number, stop.handle) for number in HANDLED}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
