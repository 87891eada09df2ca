"""Cancel, pause and retry against workers at work."""

from __future__ import annotations

import random
import time
from typing import Any

import psycopg
import pytest

from sightline.client import Sightline
from sightline.job import Job, JobProgress
from tests.workers.conftest import png
from tests.workers.processes import WorkerProcess, Workers, until
from tests.workers.test_drills import chunks, go, running, submit, uploads_blocked


@pytest.fixture(scope="module", autouse=True)
def workers(space: str, start_worker: Workers) -> list[WorkerProcess]:
    return [start_worker(), start_worker()]


def ended(job: Job) -> JobProgress:
    """The counts of a job that is over; they add up."""
    progress = until(lambda: (now := job.progress()).finished and now)
    assert progress.pending == 0
    assert progress.submitted == progress.done + progress.failed + progress.skipped + progress.cancelled
    return progress


def stored(connection: psycopg.Connection, job: Job) -> int:
    row = connection.execute(
        "select count(*) from sightline.embedding where item_id in "
        "(select unnest(item_ids) from sightline.chunk where job_id = %s)",
        (job.job_id,),
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_running_work_of_a_cancelled_job_stops_at_the_next_batch(
    client: Sightline, connection: psycopg.Connection, workers: list[WorkerProcess]
) -> None:
    job = submit(client, "cancelled", 700)
    with uploads_blocked(client):  # the workers have claimed it and not yet begun to encode
        go(connection, job)
        until(lambda: running(connection, job) > 0)
        assert job.cancel() == "cancelling"
        assert job.progress().state == "cancelling"
        cancelling = running(connection, job)
        time.sleep(1.0)  # two heartbeats
    progress = ended(job)
    assert progress.state == "cancelled"
    assert (progress.failed, progress.skipped) == (0, 0)
    assert progress.done == stored(connection, job) == 0
    assert cancelling > 0
    assert {state for state, _ in chunks(connection, job)} == {"cancelled"}
    assert {attempt for _, attempt in chunks(connection, job)} == {0}


def test_jobs_cancelled_at_any_moment_add_up_and_leave_the_others_alone(
    client: Sightline, connection: psycopg.Connection
) -> None:
    dice = random.Random(1)
    jobs = [submit(client, f"race {n}", 200) for n in range(6)]
    kept = submit(client, "kept", 200)
    for job in [*jobs, kept]:
        go(connection, job)
    for job in jobs:
        time.sleep(dice.uniform(0, 0.3))
        job.cancel()
    for job in jobs:
        progress = ended(job)
        assert progress.submitted == 200
        assert progress.failed == 0
        assert progress.done == stored(connection, job)
    assert kept.wait(timeout=40).done == 200
    left = connection.execute("select count(*) from sightline.chunk where state in ('queued', 'running')").fetchone()
    assert left == (0,)


def test_the_same_content_in_a_cancelled_and_a_living_job_is_stored_for_the_living(
    client: Sightline, connection: psycopg.Connection
) -> None:
    doomed = submit(client, "same", 150)
    connection.execute("insert into sightline.collection (name) values ('same content')")
    ids = connection.execute(
        "insert into sightline.item (collection_id, external_id, modality, blob_digest, digest) "
        "select c.collection_id, i.external_id, 'image', i.blob_digest, i.digest from sightline.item i "
        "join sightline.collection k using (collection_id), sightline.collection c "
        "where k.name = 'same' and c.name = 'same content' returning item_id"
    ).fetchall()
    living = client.submit("encode", {}, items=[item_id for (item_id,) in ids])
    with uploads_blocked(client):
        go(connection, doomed)
        go(connection, living)
        until(lambda: running(connection, doomed) > 0 and running(connection, living) > 0)
        doomed.cancel()
        time.sleep(1.0)
    assert ended(doomed).state == "cancelled"
    progress = living.wait(timeout=40)
    assert (progress.done, progress.failed) == (150, 0)
    assert stored(connection, living) == 150


@pytest.mark.parametrize("what", ["queue", "collection"])
def test_paused_work_waits_and_then_goes_on(client: Sightline, connection: psycopg.Connection, what: str) -> None:
    collection = f"paused {what}"
    job = submit(client, collection, 130)
    target: dict[str, Any] = {"queue": "encode"} if what == "queue" else {"collection": collection}
    client.pause(**target)
    go(connection, job)
    other = client.ingest([{"data": png(77, (20, 20)), "external_id": "x"}], collection=f"beside {what}")
    if what == "collection":
        assert other.wait(timeout=20).done == 1
    else:
        time.sleep(1.5)
        assert other.progress().pending == 1
    assert job.progress().paused
    assert [state for state, _ in chunks(connection, job)] == ["queued"] * 3
    client.resume(**target)
    assert job.wait(timeout=30).done == 130
    assert other.wait(timeout=30).done == 1
    assert {attempt for _, attempt in chunks(connection, job)} == {0}


def test_retried_items_are_stored_once_the_cause_is_gone(
    client: Sightline, connection: psycopg.Connection, media: Any
) -> None:
    names = [f"late-{n}.png" for n in range(3)]
    for name in names:
        (media / name).write_bytes(b"not yet a picture")
    job = client.ingest([media / name for name in names], collection="late")
    assert job.wait(timeout=30).failed == 3
    assert {failure.error_class for failure in job.failures()} == {"NotAnImage"}
    for n, name in enumerate(names):
        (media / name).write_bytes(png(900 + n))
    (made,) = client.retry(collection="late", error_class="NotAnImage")
    assert made.new_job_id is not None
    again = client.job(made.new_job_id)
    assert again.wait(timeout=30).done == 3
    assert stored(connection, again) == 3
    assert job.failures() == []
    assert job.progress().failed == 3
