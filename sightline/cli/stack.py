"""`sightline up`, `migrate` and `dsn`: what an operator runs."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from typing import Annotated
from urllib.parse import urlsplit

import structlog
import typer

from sightline.cli.output import JsonOption, configure_logging, err, out, print_json
from sightline.connection import service_urls
from sightline.database import Database
from sightline.embedded.supervisor import ending
from sightline.errors import ServiceFailed, SightlineError
from sightline.migrate import migrate as run_migrations
from sightline.services import Services, running_services
from sightline.settings import Settings, with_options
from sightline.signals import stop_signals
from sightline.space import index_space, spaces_to_index

log = structlog.get_logger(__name__)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(up)
    app.command()(migrate)
    app.command()(dsn)


def up(
    model: Annotated[
        str | None, typer.Option(help="Model of the default space, when it is first made (default: the bundled one).")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
) -> None:
    """Run Postgres with pgvector, Redis and a worker in the foreground. Ctrl-C stops them, the data stays.

    The worker finishes what it began, within SIGHTLINE_DRAIN_SECONDS; a second Ctrl-C hands that back and ends at once.

    Example: sightline up
    """
    settings = with_options(Settings(), model=model, device=device)
    configure_logging(settings.log_level)
    began = time.monotonic()
    with stop_signals() as stop, ExitStack() as undo:
        with err.status("starting what is not there yet ..."):
            services = undo.enter_context(running_services(settings, stop))
        out.print(f"[bold]sightline is up[/bold] ({time.monotonic() - began:.1f} s)\n", highlight=False)
        # Not wrapped and not framed: these lines are there to be copied.
        out.print(_how_to_connect(services), soft_wrap=True, highlight=False, markup=False)
        indexer = threading.Thread(target=_keep_indexed, args=(services.database, stop), name="indexer", daemon=True)
        if services.stack is not None:
            indexer.start()
        while not stop.wait(1.0):
            if services.stack is not None:
                services.stack.heal()
            if services.worker.wait(0) is not None and services.worker.last_exit is not None:
                raise ServiceFailed(f"the worker: {ending(services.worker.last_exit)}; see {services.worker_log}")
        out.print("stopping ...")


def migrate(as_json: JsonOption = False) -> None:
    """Bring the database to the newest schema.

    Example: sightline migrate
    """
    database_url, _ = service_urls(Settings(), None, None)
    revision = run_migrations(database_url)
    if as_json:
        print_json({"revision": revision})
    else:
        out.print(f"the database is at revision {revision}")


def dsn(
    as_json: JsonOption = False,
    redis: Annotated[bool, typer.Option("--redis", help="Print the Redis DSN instead.")] = False,
) -> None:
    """Print the Postgres DSN, for example for psql: psql "$(sightline dsn)".

    Example: sightline dsn
    """
    settings = Settings()
    database_url, redis_url = service_urls(settings, None, None)
    if as_json:
        print_json({"database_url": database_url, "redis_url": redis_url})
    else:
        typer.echo(redis_url if redis else database_url)


def _keep_indexed(database: Database, stop: threading.Event) -> None:
    """Build the index of a space once its first bulk load is over: the embedded stack has no operator who would."""
    while not stop.wait(5.0):
        try:
            for name in spaces_to_index(database):
                log.info("building the indexes of a space", space=name)
                index_space(database, name)
        except SightlineError as error:
            log.warning("indexing failed, will try again", error=str(error))


def _how_to_connect(services: Services) -> str:
    psql = str(services.stack.psql) if services.stack else "psql"
    lines = [
        f"data      {services.stack.info.data}"
        if services.stack and services.stack.info
        else "data      on your servers",
        f"Postgres  {services.database_url}",
        f"Redis     {urlsplit(services.redis_url).netloc.rpartition('@')[2]}, see: sightline dsn --redis"
        if services.stack
        else "Redis     as SIGHTLINE_REDIS_URL says",
        f'psql      {psql} "$(sightline dsn)"',
        f"space     {services.space} (alias: current)",
    ]
    if services.worker_log:
        lines.append(f"worker    log in {services.worker_log}")
    lines += [
        "",
        "Try       sightline demo, or: sightline ingest FOLDER; sightline search 'a red star'",
        "Stop      Ctrl-C; the data stays",
    ]
    return "\n".join(lines)
