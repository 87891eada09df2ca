"""`sightline worker`: the processes that do the work."""

from __future__ import annotations

import signal
from typing import Annotated

import typer

from sightline.cli.output import configure_logging
from sightline.connection import service_urls
from sightline.crew import Crew, devices_of
from sightline.embedded.supervisor import ending
from sightline.errors import ServiceFailed, ServiceMissing, UsageError
from sightline.services import WORKER_GRACE_SECONDS
from sightline.settings import Settings, with_options
from sightline.signals import stop_signals


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(worker)


def worker(
    queues: Annotated[
        str | None, typer.Option(help="Comma-separated: KIND or KIND.POOL (default: every kind of job, of no pool).")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    gpus: Annotated[str | None, typer.Option(help="A process for each GPU: all, or numbers such as 0,2.")] = None,
    processes: Annotated[int, typer.Option(min=1, max=64, help="How many processes on each device.")] = 1,
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="Chunks that each process works on at a time (SIGHTLINE_CHUNK_SLOTS)."),
    ] = None,
) -> None:
    """Run supervised workers, on the servers that the settings name or on the embedded stack that is up.

    A worker that dies is started again. On SIGTERM or Ctrl-C each finishes what it began, within
    SIGHTLINE_DRAIN_SECONDS, and hands back the rest; a second one ends it at once. Nothing is lost either way. Several
    processes serve their metrics on SIGHTLINE_METRICS_PORT and the ports after it.

    Example: sightline worker --queues encode --gpus all
    """
    if gpus is not None and device is not None:
        raise UsageError("--gpus and --device exclude each other")
    settings = with_options(Settings(), device=device, chunk_slots=concurrency)
    configure_logging(settings.log_level)
    database_url, redis_url = service_urls(settings, None, None)
    if redis_url is None:
        raise ServiceMissing("a worker needs Redis: set SIGHTLINE_REDIS_URL")
    devices = [settings.device] if gpus is None else devices_of(gpus)
    crew = Crew(settings, database_url, redis_url, queues, [name for name in devices for _ in range(processes)])
    with stop_signals() as stop:
        crew.start()
        while not stop.wait(0.2) and (code := crew.ended()) is None:
            pass
        codes = crew.stop(settings.drain_seconds + WORKER_GRACE_SECONDS, stop.again)
        if not stop.is_set():
            raise typer.Exit(code or 0)
    for code in codes:
        if code not in (None, 0, -signal.SIGTERM):  # SIGTERM itself ended one that had not begun to work
            raise ServiceFailed(
                f"a worker: {ending(code)}; what it held comes back after {settings.lease_seconds:g} s (its lease)"
            )
