"""Control in SQL: cancel, pause, retry and dismiss keep the ledger's counts right, whoever does what at the same moment."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from sightline.client import Sightline
from sightline.errors import JobFailed, RequestRefused
from sightline.ingest import BATCH_ITEMS
from sightline.item import Item
from tests.sightline.test_ledger import WORKER, beat, claim, take
from tests.workers.processes import until


@pytest.fixture(autouse=True)
def empty(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "truncate sightline.job, sightline.worker, sightline.leader, sightline.item, sightline.collection cascade"
        )
        connection.execute("select sightline.create_space('toy', 'points', 4)")
        connection.execute("select sightline.alias_space('current', 'toy')")
        beat(connection, WORKER, slots=2)


def submit(connection: psycopg.Connection, n: int, collection: str = "c", payload: str = "{}") -> int:
    return connection.execute(
        "select sightline.submit('encode', %s, %s, (select jsonb_agg(jsonb_build_object('text', %s || i)) from generate_series(1, %s) i))",
        (payload, collection, str(uuid.uuid4()), n),
    ).fetchone()[0]


def progress(connection: psycopg.Connection, job: int) -> tuple[Any, ...]:
    return connection.execute(
        "select state, submitted, done, failed, skipped, cancelled, pending from sightline.job_progress where job_id = %s",
        (job,),
    ).fetchone()


def fail(connection: psycopg.Connection, job: int, error_class: str = "Broken") -> None:
    """A worker gives up every chunk of a job."""
    ids = [
        row[0]
        for row in connection.execute("select chunk_id from sightline.chunk where job_id = %s", (job,)).fetchall()
    ]
    for chunk_id, fence in claim(connection, ids):
        connection.execute("select sightline.fail_chunk(%s, %s, %s, 'it broke', 1)", (chunk_id, fence, error_class))
    connection.execute("select sightline.close_job(%s)", (job,))


# --- cancel ---


def test_queued_work_of_a_cancelled_job_never_starts(connection: psycopg.Connection) -> None:
    job = submit(connection, 100)
    ((_, ids),) = take(connection)
    assert connection.execute("select sightline.cancel(%s)", (job,)).fetchone() == ("cancelled",)
    assert claim(connection, ids) == []
    assert take(connection) == []
    assert progress(connection, job) == ("cancelled", 100, 0, 0, 0, 100, 0)
    error = connection.execute("select error from sightline.job_progress").fetchone()
    assert error[0].startswith("cancelled by ")


def test_what_was_done_before_counts_as_done(connection: psycopg.Connection) -> None:
    job = submit(connection, 100)
    ((_, ids),) = take(connection)
    claim(connection, ids[:1])
    connection.execute(
        "update sightline.chunk set state = 'done', n_done = 60, n_failed = 4, worker_id = null where state = 'running'"
    )
    assert connection.execute("select sightline.cancel(%s)", (job,)).fetchone() == ("cancelled",)
    assert progress(connection, job) == ("cancelled", 100, 60, 4, 0, 36, 0)


def test_a_job_whose_work_runs_is_cancelling_until_that_ends(connection: psycopg.Connection) -> None:
    job = submit(connection, 100)
    ((_, ids),) = take(connection)
    ((running, fence),) = claim(connection, ids[:1])
    assert connection.execute("select sightline.cancel(%s)", (job,)).fetchone() == ("cancelling",)
    assert progress(connection, job) == ("cancelling", 100, 0, 0, 0, 36, 64)
    # An error or a lost lease ends it too: nothing is tried again.
    assert connection.execute(
        "select sightline.fail_chunk(%s, %s, 'WorkerLost', 'x', 3)", (running, fence)
    ).fetchone() == ("cancelled",)
    connection.execute("select sightline.sweep('15 s', 3)")
    assert progress(connection, job) == ("cancelled", 100, 0, 0, 0, 100, 0)
    assert connection.execute("select count(*) from sightline.failure").fetchone() == (0,)


def test_a_chunk_that_comes_late_is_cancelled_by_the_sweeper(connection: psycopg.Connection) -> None:
    job = submit(connection, 2)
    ((_, ids),) = take(connection)
    claim(connection, ids)
    connection.execute("select sightline.cancel(%s)", (job,))
    connection.execute("select sightline.release(%s, %s)", (ids, WORKER))  # a worker that stops hands it back
    assert claim(connection, ids) == []
    assert take(connection) == []
    connection.execute("select sightline.sweep('15 s', 3)")
    assert progress(connection, job) == ("cancelled", 2, 0, 0, 0, 2, 0)


def test_a_cancelled_job_takes_no_more_items(connection: psycopg.Connection) -> None:
    job = connection.execute("select (sightline.open_job('encode', '{}', 'c')).job_id").fetchone()[0]
    connection.execute('select sightline.add_items(%s, \'[{"text": "a"}]\')', (job,))
    connection.execute("select sightline.cancel(%s)", (job,))
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        connection.execute('select sightline.add_items(%s, \'[{"text": "b"}]\')', (job,))
    assert progress(connection, job) == ("cancelled", 1, 0, 0, 0, 1, 0)


def test_whoever_still_submits_to_a_cancelled_job_is_told(connection: psycopg.Connection, client: Sightline) -> None:
    in_database = "select n_submitted from sightline.job order by job_id desc limit 1"

    def stream() -> Iterator[Item]:
        for n in range(2 * BATCH_ITEMS):
            if n == BATCH_ITEMS + 500:  # the first batch is on its way
                until(lambda: connection.execute(in_database).fetchone() == (BATCH_ITEMS,))
                connection.execute("select sightline.cancel(max(job_id)) from sightline.job")
            yield Item(text=f"text {n}", external_id=str(n))

    with pytest.raises(JobFailed, match=r"job \d+ was cancelled by \w+: 2,048 items were submitted"):
        client.ingest(stream(), collection="c")
    state, submitted, *_, cancelled, pending = progress(
        connection, connection.execute("select max(job_id) from sightline.job").fetchone()[0]
    )
    assert (state, submitted, cancelled, pending) == ("cancelled", BATCH_ITEMS, BATCH_ITEMS, 0)


def test_cancelling_what_is_over_changes_nothing(connection: psycopg.Connection, client: Sightline) -> None:
    job = submit(connection, 1)
    fail(connection, job)
    before = progress(connection, job)
    assert client.job(job).cancel() == "done"
    assert progress(connection, job) == before
    with pytest.raises(RequestRefused, match="there is no job 999999"):
        client.job(999999).cancel()


def test_whoever_waits_for_a_cancelled_job_is_told(connection: psycopg.Connection, client: Sightline) -> None:
    job = client.job(submit(connection, 1))
    job.cancel()
    with pytest.raises(JobFailed, match="was cancelled: cancelled by"):
        job.wait(timeout=5)


def test_claims_and_cancels_at_once_neither_deadlock_nor_lose_a_chunk(
    connection: psycopg.Connection, database_url: str
) -> None:
    """Each chunk is either claimed, and then ended by its worker, or cancelled; no third way and no error."""
    jobs = [submit(connection, 640) for _ in range(8)]
    ids = [row[0] for row in connection.execute("select chunk_id from sightline.chunk order by 1").fetchall()]

    def claims() -> None:
        with psycopg.connect(database_url, autocommit=True) as own:
            for first in range(0, len(ids), 3):
                for chunk_id, fence in claim(own, ids[first : first + 3]):
                    own.execute("select sightline.fail_chunk(%s, %s, 'X', 'x', 1)", (chunk_id, fence))

    def cancels() -> None:
        with psycopg.connect(database_url, autocommit=True) as own:
            for job in jobs:
                own.execute("select sightline.cancel(%s)", (job,))

    def sweeps() -> None:
        with psycopg.connect(database_url, autocommit=True) as own:
            for _ in range(20):
                own.execute("select sightline.sweep('15 s', 3)")
                own.execute("select * from sightline.take_unpublished('15 s', 4)")

    with ThreadPoolExecutor(4) as threads:
        for running in [threads.submit(body) for body in (claims, claims, cancels, sweeps)]:
            running.result()
    connection.execute("select sightline.sweep('15 s', 3)")
    for job in jobs:
        state, submitted, done, failed, skipped, cancelled, pending = progress(connection, job)
        assert state in ("cancelled", "done")
        assert (done, skipped, pending) == (0, 0, 0)
        assert submitted == failed + cancelled == 640
    assert connection.execute(
        "select count(*) from sightline.chunk where state in ('queued', 'running')"
    ).fetchone() == (0,)


# --- pause and resume ---


@pytest.mark.parametrize("what", ["queue", "collection"])
def test_nothing_paused_is_published_or_claimed_and_it_goes_on_where_it_was(
    connection: psycopg.Connection, client: Sightline, what: str
) -> None:
    target: dict[str, Any] = {"queue": "encode"} if what == "queue" else {"collection": "c"}
    job = submit(connection, 100)
    ((_, published),) = take(connection)
    assert client.pause(**target) is True
    assert client.pause(**target) is False
    assert claim(connection, published) == []
    assert take(connection) == []
    assert client.job(job).progress().paused
    assert progress(connection, job) == ("queued", 100, 0, 0, 0, 0, 100)
    assert client.resume(**target) is True
    assert client.resume(**target) is False
    assert not client.job(job).progress().paused
    assert take(connection) == [("normal", published)]
    assert [chunk for chunk, _ in claim(connection, published)] == published
    assert connection.execute("select max(attempt) from sightline.chunk").fetchone() == (0,)


def test_a_paused_collection_leaves_the_room_to_the_others(connection: psycopg.Connection, client: Sightline) -> None:
    submit(connection, 64 * 20, "big")
    assert sum(len(ids) for _, ids in take(connection)) == 8  # all the room there is
    client.pause(collection="big")
    submit(connection, 64 * 3, "small")
    assert [len(ids) for _, ids in take(connection)] == [3]
    held, oldest = connection.execute(
        "select held_items, oldest_seconds is null from sightline.queue_status"
    ).fetchone()
    assert held == 64 * 20
    assert not oldest


def test_running_work_of_a_paused_queue_is_finished(connection: psycopg.Connection, client: Sightline) -> None:
    job = submit(connection, 10)
    ((_, ids),) = take(connection)
    claim(connection, ids)
    client.pause(queue="encode", reason="new model")
    row = connection.execute("select queue, paused, running_items, held_items from sightline.queue_status").fetchone()
    assert row == ("encode", True, 10, 0)
    connection.execute(
        "update sightline.chunk set state = 'done', n_done = 10, worker_id = null where state = 'running'"
    )
    connection.execute("select sightline.close_job(%s)", (job,))
    assert progress(connection, job) == ("done", 10, 10, 0, 0, 0, 0)


def test_what_does_not_exist_cannot_be_paused(client: Sightline) -> None:
    with pytest.raises(RequestRefused, match='there is no queue "encoed"; queues: encode'):
        client.pause(queue="encoed")
    with pytest.raises(RequestRefused, match='there is no collection "nope"'):
        client.pause(collection="nope")
    with pytest.raises(RequestRefused, match="a queue or a collection"):
        client.pause()


# --- retry and dismiss ---


def failed(connection: psycopg.Connection) -> list[tuple[int, str]]:
    return connection.execute("select job_id, error_class from sightline.failed_items order by 1, 2").fetchall()


def test_a_retry_is_a_new_job_that_settles_the_failures(connection: psycopg.Connection, client: Sightline) -> None:
    job = submit(connection, 3)
    fail(connection, job)
    before = progress(connection, job)
    assert before == ("done", 3, 0, 3, 0, 0, 0)
    (made,) = client.retry(job_id=job)
    assert (made.retry_of, made.items, made.left_open) == (job, 3, 0)
    assert made.new_job_id is not None
    assert client.job(made.new_job_id).progress().retry_of == job
    assert progress(connection, made.new_job_id) == ("queued", 3, 0, 0, 0, 0, 3)
    assert progress(connection, job) == before  # its counts are history
    assert client.job(job).progress().open_failures == 0
    assert failed(connection) == []
    assert client.retry(job_id=job) == []  # nothing is left to retry
    fail(connection, made.new_job_id, "Again")
    assert failed(connection) == [(made.new_job_id, "Again")] * 3


def test_filters_choose_the_failures(connection: psycopg.Connection, client: Sightline) -> None:
    jobs = [submit(connection, 2, collection) for collection in ("a", "b", "b")]
    for job, error_class in zip(jobs, ("X", "X", "Y"), strict=True):
        fail(connection, job, error_class)
    assert [(r.retry_of, r.items) for r in client.retry(collection="b", error_class="X")] == [(jobs[1], 2)]
    one = connection.execute("select min(failure_id) from sightline.failed_items").fetchone()[0]
    assert client.dismiss(failure_ids=[one]) == 1
    assert failed(connection) == [(jobs[0], "X"), (jobs[2], "Y"), (jobs[2], "Y")]
    assert client.dismiss(error_class="Z") == 0
    assert [(r.retry_of, r.items) for r in client.retry(everything=True)] == [(jobs[0], 1), (jobs[2], 2)]
    assert connection.execute("select sightline.dismiss(everything => true)").fetchone() == (0,)
    with pytest.raises(RequestRefused, match='there is no collection "nope"'):
        client.retry(collection="nope")
    with pytest.raises(RequestRefused, match="there is no job 999999"):
        client.dismiss(job_id=999999)


@pytest.mark.parametrize("verb", ["retry", "dismiss"])
def test_a_filter_that_came_out_empty_means_no_failure_at_all(
    connection: psycopg.Connection, client: Sightline, verb: str
) -> None:
    job = submit(connection, 2)
    fail(connection, job)
    with pytest.raises(RequestRefused, match="say which failures"):
        getattr(client, verb)()
    with pytest.raises(RequestRefused, match="goes with no filter"):
        getattr(client, verb)(job_id=job, everything=True)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="say which failures"):
        connection.execute(
            f"select sightline.{verb}(job_id => (select job_id from sightline.job where kind = 'no such kind'))"
        )
    assert len(failed(connection)) == 2


def test_dismissed_failures_stay_rows_and_stay_counted(connection: psycopg.Connection, client: Sightline) -> None:
    job = submit(connection, 2)
    fail(connection, job)
    assert client.dismiss(job_id=job) == 2
    assert client.dismiss(job_id=job) == 0
    assert client.retry(job_id=job) == []
    assert failed(connection) == []
    assert progress(connection, job) == ("done", 2, 0, 2, 0, 0, 0)
    assert connection.execute("select count(*) from sightline.failure where dismissed_at is not null").fetchone() == (
        2,
    )


def test_what_could_not_be_read_at_submission_stays_open(connection: psycopg.Connection, client: Sightline) -> None:
    job = client.submit(
        "encode",
        {},
        collection="c",
        items=[{"text": "fine"}, {"external_id": "gone.png", "error": {"class": "NotFound", "message": "no file"}}],
    )
    fail(connection, job.job_id)
    (made,) = client.retry(job_id=job.job_id)
    assert (made.items, made.left_open) == (1, 1)
    (again,) = client.retry(job_id=job.job_id)
    assert (again.new_job_id, again.items, again.left_open) == (None, 0, 1)
    assert failed(connection) == [(job.job_id, "NotFound")]
    assert client.dismiss(job_id=job.job_id) == 1


def test_an_item_that_failed_in_two_jobs_is_done_once(connection: psycopg.Connection, client: Sightline) -> None:
    first = submit(connection, 2)
    fail(connection, first)
    ids = [row[0] for row in connection.execute("select item_id from sightline.item").fetchall()]
    second = client.submit("encode", {}, items=ids).job_id
    fail(connection, second)
    (made,) = client.retry(everything=True)
    assert (made.retry_of, made.items) == (second, 2)
    assert failed(connection) == []


def test_two_retries_at_once_make_one_job(connection: psycopg.Connection, database_url: str) -> None:
    fail(connection, submit(connection, 300))

    def run(_: int) -> list[int]:
        with psycopg.connect(database_url) as own:
            return [row[1] for row in own.execute("select * from sightline.retry(everything => true)").fetchall()]

    with ThreadPoolExecutor(4) as threads:
        made = [job for jobs in threads.map(run, range(4)) for job in jobs]
    assert len(made) == 1
    assert progress(connection, made[0])[1] == 300


def test_a_retry_in_a_transaction_that_is_rolled_back_never_was(
    connection: psycopg.Connection, database_url: str
) -> None:
    job = submit(connection, 1)
    fail(connection, job)
    with psycopg.connect(database_url) as own:
        own.execute("select * from sightline.retry(everything => true)").fetchall()
        own.rollback()
    assert failed(connection) == [(job, "Broken")]
    assert connection.execute("select count(*) from sightline.job").fetchone() == (1,)
