"""`sightline jobs --watch` and `status --watch`: tables drawn again and again, or lines where nobody sees them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import typer
from rich.console import Group
from rich.live import Live

from sightline.cli.output import out, records_table

WATCH_SECONDS = 1.0
STATUS_SECONDS = 10.0

Rows = list[dict[str, Any]]


def watch_ledger(jobs: Callable[[], Rows], queues: Callable[[], Rows]) -> None:
    """Show jobs and queues until Ctrl-C."""
    with suppress(KeyboardInterrupt):
        if sys.stdout.isatty():
            _draw(jobs, queues)
        else:
            _tell(jobs)


def watch_status(workers: Callable[[], Rows], queues: Callable[[], Rows]) -> None:
    """Show workers and queues until Ctrl-C; into a pipe, a line for each queue every ten seconds."""
    with suppress(KeyboardInterrupt):
        if sys.stdout.isatty():
            _draw(workers, queues, empty="no worker is alive: start one with `sightline worker`", seconds=2.0)
        while True:
            for queue in queues():
                numbers = [
                    (name, value) for name, value in queue.items() if value and not isinstance(value, (str, bool))
                ]
                parts = [f"{name} {value:,}" for name, value in numbers] + ["paused"] * bool(queue["paused"])
                typer.echo(f"{time.strftime('%H:%M:%S')} {queue['queue']}: {', '.join(parts) or 'idle, no worker'}")
            sys.stdout.flush()
            time.sleep(STATUS_SECONDS)


def _draw(
    above: Callable[[], Rows], queues: Callable[[], Rows], empty: str = "no jobs", seconds: float = WATCH_SECONDS
) -> None:
    with Live(console=out, auto_refresh=False) as live:
        while True:
            tables = (records_table(above(), empty=empty), "", records_table(queues(), empty="no queues"))
            live.update(Group(*tables), refresh=True)
            time.sleep(seconds)


def _tell(jobs: Callable[[], Rows]) -> None:
    """A line for each job at first, and then whenever it has moved."""
    told: dict[int, tuple[Any, ...]] = {}
    while True:
        for job in reversed(jobs()):
            moved = tuple(job[name] for name in ("state", "submitted", "done", "failed", "skipped", "cancelled"))
            if told.get(job["job_id"]) != moved:
                told[job["job_id"]] = moved
                typer.echo(f"{time.strftime('%H:%M:%S')} {line(job)}")
        sys.stdout.flush()
        time.sleep(WATCH_SECONDS)


def line(job: dict[str, Any]) -> str:
    """One job in words."""
    parts = [f"{job['done']:,} of {job['submitted']:,} done"]
    parts += [f"{job[name]:,} {name}" for name in ("failed", "skipped", "cancelled", "pending") if job[name]]
    if job["items_per_s"] is not None:
        parts.append(f"{job['items_per_s']:,g} items/s")
    if job["seconds_left"] is not None:
        parts.append(f"{timedelta(seconds=job['seconds_left'])} left")
    return f"job {job['job_id']} {job['state']}: {', '.join(parts)}"
