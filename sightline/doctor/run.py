"""All checks, one after the other; one that breaks is a finding itself and does not keep the others from running."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import redis

from sightline.connection import service_urls
from sightline.database import translated_errors
from sightline.doctor import indexes, machine, orphans, pooler, postgres, redis_server, workers
from sightline.doctor.check import Check, fail
from sightline.doctor.clocks import check_clocks
from sightline.errors import SightlineError
from sightline.settings import Settings

Checks = Callable[[], list[Check]]


def examine(settings: Settings) -> Iterator[Check]:
    """Yield each finding as it is made: of Postgres, Redis, the workers, and this machine."""
    try:
        database_url, redis_url = service_urls(settings, None, None)
    except SightlineError as error:
        yield fail("servers", str(error), "start the stack, or say where the servers are")
        database_url, redis_url = None, None
    models: list[tuple[str, str | None]] = []
    if database_url is not None:
        yield from _with_servers(database_url, redis_url, models)
    yield from _guarded("disk", lambda: machine.check_disks(settings))
    yield from _guarded("media roots", lambda: machine.check_media_roots(settings))
    yield from _guarded("media store", lambda: machine.check_media_store(settings))
    yield from _guarded("models", lambda: machine.check_models(models, settings))  # takes longest: torch is loaded


def _with_servers(database_url: str, redis_url: str | None, models: list[tuple[str, str | None]]) -> Iterator[Check]:
    """Findings of the servers; the spaces' models are added to `models`."""
    broker: redis.Redis | None = None
    try:
        with translated_errors(database_url):
            database = psycopg.connect(database_url, autocommit=True, connect_timeout=10)
    except SightlineError as error:
        yield fail("Postgres", str(error), "check SIGHTLINE_DATABASE_URL: host, port, database, user and password")
        database = None
    if redis_url is not None:
        broker, findings = redis_server.connect(redis_url)
        yield from findings
    else:
        yield fail("Redis", "no URL is set", "set SIGHTLINE_REDIS_URL: without it nothing is encoded")
    try:
        if database is not None:
            with database:
                yield from _guarded("Postgres", lambda: postgres.check_server(database))
                yield from _guarded("schema", lambda: postgres.check_schema(database))
                yield from _guarded("pooler", lambda: pooler.check_pooler(database_url))
                if postgres.is_migrated(database):
                    yield from _guarded("memory", lambda: postgres.check_memory(database))
                    yield from _guarded("indexes", lambda: indexes.check_indexes(database))
                    yield from _guarded("workers", lambda: workers.check_workers(database))
                    yield from _guarded("uploads", lambda: orphans.check_orphans(database))
                    models += workers.models_in_use(database)
        yield from _guarded("clocks", lambda: check_clocks(database_url if database else None, broker))
    finally:
        if broker is not None:
            broker.close()


def _guarded(name: str, checks: Checks) -> list[Check]:
    try:
        return checks()
    except Exception as error:  # noqa: BLE001 - the others still have something to say
        reason = " ".join(str(error).split())
        return [fail(name, f"could not be looked at: {type(error).__name__}: {reason}", "see the reason")]
