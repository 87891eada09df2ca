"""The progress bar of anything that takes over a second: what was done, at which rate, and the time left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

Advance = Callable[[int], None]
"""Called with how many more were done."""


@contextmanager
def progress_bar(
    what: str, *, enabled: bool, total: int | None = None, count: Callable[[], int | None] | None = None
) -> Iterator[Advance]:
    """A bar on stderr while the body runs; it goes away at the end.

    Args:
        what: a word for the bar, as in "submitted".
        enabled: False draws nothing.
        total: how many there will be, if that is known.
        count: finds that out, in a thread of its own; None where nobody can know.
    """
    if not enabled:
        yield lambda _done: None
        return
    columns = (
        TextColumn("{task.description} {task.completed:,.0f}"), BarColumn(), TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True),
    )  # fmt: skip
    began = time.monotonic()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = TaskID(bar.add_task(what, total=total, rate=""))
        if count is not None:
            threading.Thread(target=lambda: bar.update(task, total=count()), name="count", daemon=True).start()

        def advance(done: int) -> None:
            bar.update(task, advance=done)
            rate = bar.tasks[0].completed / max(time.monotonic() - began, 1e-9)
            of = f"of {bar.tasks[0].total:,.0f} " if bar.tasks[0].total else ""
            bar.update(task, rate=f"{of}{rate:,.0f}/s")

        yield advance
