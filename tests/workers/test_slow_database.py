"""A database that does not take the results: they do not pile up in the worker."""

from __future__ import annotations

import time

import psycopg

from sightline.client import Sightline
from tests.workers.processes import Workers, until
from tests.workers.test_drills import every_item_is_stored_once, go, submit
from workers.runner import AHEAD

SLOTS = 2
MESSAGE = 256
"""Most items of one message."""


def test_results_that_cannot_be_stored_hold_up_the_claims(
    client: Sightline, connection: psycopg.Connection, space: str, start_worker: Workers
) -> None:
    worker = start_worker(chunk_slots=SLOTS)
    job = submit(client, "slow database", 1500)

    def held() -> int:
        """Items that the worker has claimed."""
        row = connection.execute(
            "select coalesce(sum(cardinality(item_ids)), 0) from sightline.chunk where job_id = %s and state = 'running'",
            (job.job_id,),
        ).fetchone()
        assert row is not None
        return int(row[0])

    with psycopg.connect(client.database_url) as holding:
        holding.execute("lock table sightline.embedding in exclusive mode")  # who reads does not wait
        go(connection, job)
        until(lambda: held() > MESSAGE)
        end = time.monotonic() + 2.5  # less than the flush waits for a lock
        most = 0
        while time.monotonic() < end:
            most = max(most, held())
            time.sleep(0.05)
        holding.rollback()
    assert most <= (SLOTS + AHEAD) * MESSAGE
    every_item_is_stored_once(connection, job, 1500)
    assert worker.exit_code() is None
