"""All that sightline needs, running: servers (embedded or given), schema, default space, one supervised worker."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg
import structlog

from sightline.database import Database
from sightline.embedded.stack import EmbeddedStack
from sightline.embedded.supervisor import Supervisor
from sightline.errors import ServiceFailed, ServiceMissing
from sightline.migrate import migrate
from sightline.settings import Settings
from sightline.signals import StopSignals
from sightline.space import ensure_default_space

logger = structlog.get_logger(__name__)

WORKER_READY_SECONDS = 120
WORKER_GRACE_SECONDS = 5
"""On top of the drain time: for the flush of what was finished."""


@dataclass(frozen=True)
class Services:
    """What runs, and how to reach it."""

    database_url: str
    redis_url: str
    database: Database
    space: str
    stack: EmbeddedStack | None
    worker: Supervisor
    worker_log: Path | None


@contextmanager
def running_services(settings: Settings, stop: StopSignals | None = None) -> Iterator[Services]:
    """Start what is not there, and stop what was started.

    Servers that SIGHTLINE_DATABASE_URL and SIGHTLINE_REDIS_URL name are used instead of the embedded ones.

    Raises:
        StackHeld: another process runs the embedded stack of `settings.home`.
        KeyboardInterrupt: `stop` was set before all was ready. A second signal hurries the worker's end.
        ServiceMissing: a server or the worker does not start; the message says why.
    """
    given = (settings.database_url, settings.redis_url)
    with ExitStack() as undo:
        stack = None
        if given[0] is not None and given[1] is not None:
            database_url, redis_url = given[0].get_secret_value(), given[1].get_secret_value()
        elif any(given):
            missing = "SIGHTLINE_REDIS_URL" if given[0] else "SIGHTLINE_DATABASE_URL"
            raise ServiceMissing(f"set {missing} too, or neither: the embedded stack has both servers")
        else:
            stack = undo.enter_context(EmbeddedStack(settings.home))
            database_url, redis_url = stack.database_url, stack.redis_url
        _check(stop)
        migrate(database_url)
        _check(stop)
        database = Database(database_url)
        undo.callback(database.close)
        space = ensure_default_space(database, settings.model)
        log = stack.home / "worker.log" if stack else None
        _check(stop)
        worker = supervised_worker(settings, database_url, redis_url, queues=_all_queues(database), log=log)
        undo.callback(worker.stop, settings.drain_seconds + WORKER_GRACE_SECONDS, hurry=stop and stop.again)
        worker.start()
        _wait_for(worker, database, log, stop)
        for name, reason in _refused_spaces(database, worker.pid):
            logger.warning("the worker does not serve a space", space=name, reason=reason)
        yield Services(database_url, redis_url, database, space, stack, worker, log)


def supervised_worker(
    settings: Settings,
    database_url: str,
    redis_url: str,
    *,
    queues: str | None = None,
    device: str | None = None,
    log: Path | None = None,
    extra: Mapping[str, str] | None = None,
) -> Supervisor:
    """A worker process, not yet started, that is started again when it dies; `extra` goes into its environment."""
    if importlib.util.find_spec("workers") is None or importlib.util.find_spec("celery") is None:
        raise ServiceMissing(
            "workers run from a checkout (pip install -e '.[worker]') or from the image, not from the wheel"
        )
    command = [sys.executable, "-m", "workers"]
    command += ["--queues", queues] if queues else []
    command += ["--device", device or settings.device]
    env = {**os.environ, "SIGHTLINE_DATABASE_URL": database_url, "SIGHTLINE_REDIS_URL": redis_url}
    env["SIGHTLINE_CHUNK_SLOTS"] = str(settings.chunk_slots)
    env |= extra or {}
    record = log.with_suffix(".pid.json") if log else None
    return Supervisor(command, env=env, log=log, record=record, on_lost=partial(_declare_lost, database_url))


def _declare_lost(database_url: str, pid: int) -> None:
    """Have the ledger give a dead worker's chunks to others at once; else they wait for the end of its lease."""
    name = f"{socket.gethostname()}:{pid}"  # as the worker calls itself
    try:
        with psycopg.connect(database_url, autocommit=True, connect_timeout=3) as connection:
            connection.execute("select sightline.declare_lost(%s)", (name,))
            connection.execute(  # its successor must not wait for the end of its lead either
                "delete from sightline.leader l using sightline.worker w "
                "where w.worker_id = l.worker_id and w.name = %s",
                (name,),
            )
    except psycopg.Error as error:
        logger.warning("the ledger does not know yet that a worker died", worker=name, error=str(error).strip())


def _check(stop: StopSignals | None) -> None:
    if stop is not None and stop.is_set():
        raise KeyboardInterrupt


def _wait_for(worker: Supervisor, database: Database, log: Path | None, stop: StopSignals | None) -> None:
    """Until the worker says that it consumes: its row has the pid of the child, and queues once models are loaded."""
    end = time.monotonic() + WORKER_READY_SECONDS
    while time.monotonic() < end:
        with database.transaction() as connection:
            ready = connection.execute(
                "select from sightline.worker "
                "where pid = %s and queues <> '{}' and stopped_at is null "
                "and seen_at > clock_timestamp() - interval '1 min'",
                (worker.pid,),
            ).fetchone()
        if ready is not None:
            return
        worker.wait(0.1)
        _check(stop)
        if worker.last_exit is not None:  # one that ends at once would not do better the next time
            raise ServiceFailed(f"the worker ended with status {worker.last_exit}{_tail(log)}")
    raise ServiceFailed(f"the worker was not ready after {WORKER_READY_SECONDS} s{_tail(log)}")


def _all_queues(database: Database) -> str:
    """The queues of all spaces and of all kinds of jobs, comma-separated."""
    with database.transaction() as connection:
        rows = connection.execute(
            "select k.kind || coalesce('.' || p.pool, '') "
            "from (select distinct kind from sightline.job_contract where served) k cross join "
            "(select null as pool union select pool from sightline.space) p order by 1"
        ).fetchall()
    return ",".join(queue for (queue,) in rows)


def _refused_spaces(database: Database, pid: int | None) -> list[tuple[str, str]]:
    """Spaces whose model the worker could not load, or whose passport is another model's, and why."""
    with database.transaction() as connection:
        return connection.execute(
            "select m->>'space', m->>'detail' from sightline.worker, jsonb_array_elements(models) m "
            "where pid = %s and stopped_at is null and m->>'state' = 'refused'",
            (pid,),
        ).fetchall()


def _tail(log: Path | None) -> str:
    if log is None or not log.exists():
        return ""
    with log.open(errors="replace") as lines:
        return f"; the end of {log}:\n" + "".join(deque(lines, 5)).rstrip()
