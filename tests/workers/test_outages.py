"""Servers that die under a worker, on a stack of this module's own."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from sightline.client import Sightline
from sightline.embedded.stack import EmbeddedStack
from sightline.migrate import migrate
from tests.conftest import make_database
from tests.workers.conftest import png
from tests.workers.processes import WorkerProcess, Workers, until


@pytest.fixture(scope="module")
def own_stack() -> Iterator[EmbeddedStack]:
    with tempfile.TemporaryDirectory(prefix="sightline-outages-") as folder:
        Path(folder).chmod(0o755)
        with EmbeddedStack(Path(folder) / "home", durable=False) as running:
            yield running


@pytest.fixture(scope="module")
def database_url(own_stack: EmbeddedStack) -> str:
    url = make_database(own_stack, "template1")
    migrate(url)
    return url


@pytest.fixture(scope="module")
def redis_url(own_stack: EmbeddedStack) -> str:
    return own_stack.redis_url


@pytest.fixture(scope="module", autouse=True)
def worker(space: str, start_worker: Workers) -> WorkerProcess:
    return start_worker(metrics_port=0)


def submit(client: Sightline, name: str, count: int) -> Any:
    items: list[Any] = [{"data": png(n + 10**6 * len(name), (30, 30)), "external_id": str(n)} for n in range(count)]
    return client.ingest(items, collection=name)


def test_redis_dies_and_comes_back_empty(
    client: Sightline, own_stack: EmbeddedStack, worker: WorkerProcess, space: str
) -> None:
    job = submit(client, "redis", 300)
    os.kill(int(client.broker.redis.info("server")["process_id"]), signal.SIGKILL)
    while_away = submit(client, "redis-away", 100)
    worker.wait_for("loop_failed")  # the dispatcher could not publish
    until(lambda: {"redis", "consumer"} <= worker.red())
    until(own_stack.heal, 10)
    assert job.wait(timeout=40).done == 300
    assert while_away.wait(timeout=20).done == 100
    call = {"kind": "encode", "space": space, "inputs": [{"text": "are you there?"}]}
    assert client.broker.call("encode.interactive", call, 20)["space"] == space
    assert worker.red() == set()


def test_postgres_crashes_in_the_middle_of_a_job(
    client: Sightline, own_stack: EmbeddedStack, database_url: str, worker: WorkerProcess
) -> None:
    job = submit(client, "postgres", 500)
    assert own_stack.info is not None
    postmaster = int((own_stack.info.data / "postmaster.pid").read_text().split("\n", 1)[0])
    os.kill(postmaster, signal.SIGQUIT)  # an immediate shutdown: recovery at the next start, as after a crash
    until(lambda: "postgres" in worker.red())
    until(own_stack.heal, 20)
    until(lambda: not worker.red())

    def closed() -> Any:
        with psycopg.connect(database_url) as connection:
            return connection.execute(
                "select submitted, done, failed, skipped, pending from sightline.job_progress "
                "where job_id = %s and state = 'done'",
                (job.job_id,),
            ).fetchone()

    assert until(closed, 60) == (500, 500, 0, 0, 0)
    assert worker.exit_code() is None
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            "select count(*), count(distinct item_id) from sightline.embedding e join sightline.item i using (item_id) "
            "join sightline.collection using (collection_id) where name = 'postgres' and e.generation = i.generation"
        ).fetchone()
    assert row == (500, 500)


def test_the_worker_stops_cleanly_after_all_that(worker: WorkerProcess) -> None:
    began = time.monotonic()
    assert worker.terminate() == 0
    assert time.monotonic() - began < 8
