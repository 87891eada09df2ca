"""Failure drills: workers that are killed or told to stop in the middle of their work, and connections that break."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from sightline.broker import Broker
from sightline.client import Sightline
from sightline.connection import Lane
from sightline.job import Job
from tests.workers.conftest import png
from tests.workers.processes import Workers, until

ITEMS = 500


@pytest.fixture(scope="module", autouse=True)
def _space(space: str) -> None:
    """Every job here is one of the current space."""


def submit(client: Sightline, collection: str, count: int = ITEMS, lane: Lane = "normal") -> Job:
    """A job that does not start before `go`."""
    seed = abs(hash(collection)) % 10**6
    items: list[Any] = [{"data": png(seed + n, (30, 30)), "external_id": str(n)} for n in range(count)]
    with psycopg.connect(client.database_url) as lent:
        job = client.ingest(items, collection=collection, lane=lane, connection=lent)
        lent.execute("update sightline.chunk set run_at = 'infinity' where job_id = %s", (job.job_id,))
    return job


def go(connection: psycopg.Connection, job: Job) -> None:
    connection.execute("update sightline.chunk set run_at = now() where job_id = %s", (job.job_id,))


@contextlib.contextmanager
def flush_blocked(client: Sightline, job: Job, which: str) -> Iterator[None]:
    """While this is open, a worker can claim and encode, and blocks when it stores the first ("min") or last chunk."""
    with psycopg.connect(client.database_url) as holding:
        holding.execute(
            "select from sightline.item where item_id in (select unnest(item_ids) from sightline.chunk "
            f"where chunk_id = (select {which}(chunk_id) from sightline.chunk where job_id = %s)) for update",
            (job.job_id,),
        )
        yield
        holding.rollback()


@contextlib.contextmanager
def uploads_blocked(client: Sightline) -> Iterator[None]:
    """While this is open, a worker can claim chunks, and blocks when it loads their items."""
    with psycopg.connect(client.database_url) as holding:
        holding.execute("lock table sightline.blob in access exclusive mode")
        yield
        holding.rollback()


def chunks(connection: psycopg.Connection, job: Job) -> list[tuple[Any, ...]]:
    return connection.execute(
        "select state, attempt from sightline.chunk where job_id = %s order by chunk_id", (job.job_id,)
    ).fetchall()


def running(connection: psycopg.Connection, job: Job) -> int:
    return sum(state == "running" for state, _ in chunks(connection, job))


def every_item_is_stored_once(connection: psycopg.Connection, job: Job, count: int = ITEMS) -> None:
    progress = job.wait(timeout=40)
    assert (progress.state, progress.submitted, progress.done) == ("done", count, count)
    assert (progress.failed, progress.skipped, progress.pending) == (0, 0, 0)
    row = connection.execute(
        "select count(*), count(distinct e.item_id), bool_and(e.generation = i.generation and e.slot = 0) "
        "from sightline.embedding e join sightline.item i using (item_id) where i.item_id in "
        "(select unnest(item_ids) from sightline.chunk where job_id = %s)",
        (job.job_id,),
    ).fetchone()
    assert row == (count, count, True)


def test_a_killed_worker_loses_nothing(
    client: Sightline, connection: psycopg.Connection, start_worker: Workers
) -> None:
    killed = start_worker()
    job = submit(client, "killed")
    with flush_blocked(client, job, "max"):
        go(connection, job)
        until(lambda: {state for state, _ in chunks(connection, job)} == {"done", "running"})
        killed.kill()
    assert running(connection, job) > 0  # the ledger does not know yet
    start_worker()
    every_item_is_stored_once(connection, job)
    assert {attempt for _, attempt in chunks(connection, job)} == {0}  # nobody knows that an item was to blame


def test_broken_connections_cost_nothing(client: Sightline, connection: psycopg.Connection, broker: Broker) -> None:
    job = submit(client, "broken")
    go(connection, job)
    for _ in range(3):
        until(lambda: running(connection, job) > 0 or job.progress().finished)
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'sightline-worker'"
        )
        broker.redis.client_kill_filter(_type="normal", skipme=True)
    every_item_is_stored_once(connection, job)


def test_a_frozen_worker_is_replaced_and_its_late_writes_are_dropped(
    client: Sightline, connection: psycopg.Connection, start_worker: Workers
) -> None:
    start_worker.kill_all()
    frozen = start_worker()
    job = submit(client, "frozen")
    with uploads_blocked(client):
        go(connection, job)
        until(lambda: running(connection, job) > 0)
        frozen.send(signal.SIGSTOP)
    start_worker()
    every_item_is_stored_once(connection, job)
    before = connection.execute("select max(embedded_at) from sightline.embedding").fetchone()
    frozen.send(signal.SIGCONT)
    frozen.wait_for("chunk_lost")
    frozen.kill()
    assert connection.execute("select max(embedded_at) from sightline.embedding").fetchone() == before


def test_a_stopping_worker_finishes_what_it_began(
    client: Sightline, connection: psycopg.Connection, start_worker: Workers
) -> None:
    start_worker.kill_all()
    stopped = start_worker(chunk_slots=1)
    begun, ahead = submit(client, "begun", 60, "normal"), submit(client, "ahead", 60, "bulk")
    with flush_blocked(client, begun, "min"):
        go(connection, begun)
        until(lambda: running(connection, begun))
        go(connection, ahead)
        until(lambda: running(connection, ahead))
        stopped.send(signal.SIGTERM)
        stopped.wait_for("worker_stopping")
    assert stopped.wait(12) == 0
    assert stopped.events("worker_stopped")[0]["drained"] is True
    assert chunks(connection, begun) == [("done", 0)]
    assert chunks(connection, ahead) == [("queued", 0)]
    assert begun.progress().finished


def test_a_worker_that_cannot_finish_hands_its_work_back_in_time(
    client: Sightline, connection: psycopg.Connection, start_worker: Workers
) -> None:
    slow = start_worker(drain_seconds=1)  # and it finishes the job of the drill before
    until(lambda: connection.execute("select from sightline.job where finished_at is null").rowcount == 0, 40)
    job = submit(client, "slow")
    with uploads_blocked(client):
        go(connection, job)
        until(lambda: running(connection, job) > 0)
        began = time.monotonic()
        slow.send(signal.SIGTERM)
        assert slow.wait(10) == 0
        assert 1 <= time.monotonic() - began < 4.5
        assert {state for state, _ in chunks(connection, job)} == {"queued"}
    assert {attempt for _, attempt in chunks(connection, job)} == {0}


def test_a_second_signal_ends_it_at_once(
    client: Sightline, connection: psycopg.Connection, start_worker: Workers
) -> None:
    hasty = start_worker(drain_seconds=60)
    job = client.job(connection.execute("select max(job_id) from sightline.job").fetchone()[0])  # type: ignore[index]
    every_item_is_stored_once(connection, job)  # what the drill before handed back
    job = submit(client, "hasty")
    with uploads_blocked(client):
        go(connection, job)
        until(lambda: running(connection, job) > 0)
        hasty.send(signal.SIGINT)
        hasty.wait_for("worker_stopping")
        hasty.send(signal.SIGINT)
        assert hasty.wait(5) == 0
        assert {state for state, _ in chunks(connection, job)} == {"queued"}
    assert {attempt for _, attempt in chunks(connection, job)} == {0}
