"""Starting and stopping: one clear line when something is missing, and an early signal."""

from __future__ import annotations

import os
import subprocess
import sys

import psycopg
import pytest

from tests.workers.processes import Workers, until

UNREACHABLE = {
    "SIGHTLINE_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/x",
    "SIGHTLINE_REDIS_URL": "redis://127.0.0.1:1/0",
}


def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "workers", *arguments], env=os.environ | environment,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "a worker needs SIGHTLINE_DATABASE_URL and SIGHTLINE_REDIS_URL"),
        (UNREACHABLE, "Redis cannot be reached"),
        ({"SIGHTLINE_CHUNK_SLOTS": "0"}, "settings: SIGHTLINE_CHUNK_SLOTS: Input should be greater than or equal to 1"),
    ],
)
def test_what_is_missing_is_said_in_one_line(environment: dict[str, str], message: str) -> None:
    done = start(**environment)
    assert done.returncode == 3
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_an_unreachable_database_is_named(redis_url: str) -> None:
    done = start(**UNREACHABLE | {"SIGHTLINE_REDIS_URL": redis_url})
    assert done.returncode == 3
    assert "Postgres cannot be used" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_database_that_is_not_migrated_is_named(database_url: str, redis_url: str, stack: object) -> None:
    bare = stack.database_url  # type: ignore[attr-defined]
    done = start(SIGHTLINE_DATABASE_URL=bare, SIGHTLINE_REDIS_URL=redis_url)
    assert done.returncode == 3
    assert "no sightline schema: run `sightline migrate`" in done.stderr
    assert "sightline migrate" in done.stderr


def test_an_unknown_queue_is_a_usage_error() -> None:
    assert start("--queues", "paint").returncode == 2


def test_a_signal_before_the_models_are_loaded_ends_it(
    start_worker: Workers, space: str, connection: psycopg.Connection
) -> None:
    worker = start_worker(ready=False)
    until(lambda: connection.execute("select from sightline.worker where queues = '{}'").rowcount)
    assert worker.terminate() == 0
    assert connection.execute("select stopped_at is not null from sightline.worker").fetchone() == (True,)
