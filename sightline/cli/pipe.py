"""Output into a pipe: `sightline jobs --watch | head` ends when the reader has seen enough, without a word."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TextIO, cast


class Pipe:
    """Standard output, except that a reader who is gone ends the command with exit code 0.

    Without it the libraries exit with 1, and the interpreter complains when it flushes.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or exit."""
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._leave()

    def flush(self) -> None:
        """Flush, or exit."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._leave()

    def _leave(self) -> NoReturn:
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())  # for what is still in the buffer
        raise SystemExit(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def piped_output() -> Iterator[None]:
    """Standard output through `Pipe`, flushed at the end."""
    before = sys.stdout
    sys.stdout = cast("TextIO", Pipe(before))
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stdout = before
