"""How much may be decoded at a time, so that memory has a bound whatever the files are."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

SMALL = 4
"""Images of up to 1/SMALL of the room never wait: a photograph does not stand behind a poster."""


class Room:
    """Pixels that large images share. Safe in threads.

    Args:
        pixels: in all; no single image may have more.
    """

    def __init__(self, pixels: int) -> None:
        self._total = pixels
        self._held = 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Wait until so many pixels fit beside the other large images, and keep them."""
        if pixels <= self._total // SMALL:
            yield
            return
        with self._changed:
            self._changed.wait_for(lambda: self._held + pixels <= self._total or not self._held)
            self._held += pixels
        try:
            yield
        finally:
            with self._changed:
                self._held -= pixels
                self._changed.notify_all()
