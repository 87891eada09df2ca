"""Rate limits, reconciling a space, and forgetting finished jobs."""

from __future__ import annotations

import psycopg
import pytest

from sightline.client import Sightline
from sightline.control import Missing
from sightline.errors import RequestRefused
from tests.drills.invariants import breaches
from tests.sightline.test_control import empty, fail, progress, submit  # noqa: F401 - a fixture
from tests.sightline.test_ledger import backlog, claim, finish, take


def do(connection: psycopg.Connection, job: int) -> None:
    """A worker does every chunk of a job."""
    ids = [
        row[0]
        for row in connection.execute("select chunk_id from sightline.chunk where job_id = %s", (job,)).fetchall()
    ]
    for chunk_id, fence in claim(connection, ids):
        finish(connection, chunk_id, fence)
    connection.execute("select sightline.close_job(%s)", (job,))


# --- rate limits ---


def started(connection: psycopg.Connection, seconds: float) -> int:
    """Items of collection `slow` that are published once the clock of its limit has gone on by so much."""
    connection.execute("update sightline.rate_limit set counted_at = counted_at - %s * interval '1 s'", (seconds,))
    ids = [chunk_id for _, ids in take(connection, per_slot=100) for chunk_id in ids]
    return connection.execute(
        "select coalesce(sum(cardinality(item_ids)), 0) from sightline.chunk where chunk_id = any(%s)", (ids,)
    ).fetchone()[0]


def test_a_limited_collection_starts_so_many_items_a_second(connection: psycopg.Connection, client: Sightline) -> None:
    job = submit(connection, 1, "slow")
    backlog(connection, job, 5000)
    assert client.rate_limit("slow", 100) is None
    total = sum(started(connection, 0.1) for _ in range(50))
    # The real seconds of the loop count too; a second's worth, at the most, is saved up.
    elapsed = connection.execute(
        "select extract(epoch from clock_timestamp() - set_at) from sightline.rate_limit"
    ).fetchone()[0]
    assert 490 <= total <= 100 * (5 + float(elapsed)) + 100
    assert client.rate_limit("slow", None) == 100
    assert started(connection, 0) > 2000


def test_a_full_chunk_of_a_slow_collection_is_paid_for_before_the_next(
    connection: psycopg.Connection, client: Sightline
) -> None:
    submit(connection, 64 * 3, "slow")
    client.rate_limit("slow", 1)
    other = submit(connection, 64 * 20, "other")
    first = [chunk_id for _, ids in take(connection) for chunk_id in ids]
    jobs = connection.execute(
        "select job_id, count(*) from sightline.chunk where chunk_id = any(%s) group by 1 order by 1", (first,)
    ).fetchall()
    assert jobs == [(other - 1, 1), (other, 7)]  # the others use its room
    connection.execute("select sightline.pause(collection => 'other')")
    assert started(connection, 30) == 0
    assert started(connection, 34) == 64
    row = connection.execute("select collection, items_per_second, queued_items from sightline.rate_limits").fetchone()
    assert row == ("slow", 1, 64 * 3)


def test_a_rate_that_is_none_is_refused(connection: psycopg.Connection, client: Sightline) -> None:
    submit(connection, 1, "c")
    for rate in (0, -1, float("nan"), float("inf"), 1e7):
        with pytest.raises(RequestRefused, match="a rate limit is above 0"):
            client.rate_limit("c", rate)
    with pytest.raises(RequestRefused, match='there is no collection "nope"'):
        client.rate_limit("nope", 1)


# --- reconcile ---


def test_reconcile_enqueues_exactly_what_is_missing(connection: psycopg.Connection, client: Sightline) -> None:
    stored, broken, dismissed, queued = (
        submit(connection, n, name) for n, name in ((5, "a"), (3, "a"), (2, "b"), (4, "b"))
    )
    do(connection, stored)
    for job in (broken, dismissed):
        fail(connection, job)
    client.dismiss(job_id=dismissed)
    (stale,) = connection.execute("select min(item_id) from sightline.item").fetchone()
    connection.execute(
        "update sightline.item set text = 'other', digest = null, generation = 2 where item_id = %s", (stale,)
    )
    connection.execute(
        "insert into sightline.item (collection_id, external_id, modality, text) "
        "select collection_id, 'by hand', 'text', 'by hand' from sightline.collection where name = 'b'"
    )
    lacking = connection.execute(
        "select item_id from sightline.missing('current') where reason in ('never submitted', 'failed', 'stale') order by 1"
    ).fetchall()
    found = client.reconcile()
    a, b = (next(each.job_id for each in found if each.collection == name and each.job_id) for name in "ab")
    assert found == [
        Missing("a", "failed", 3, a),
        Missing("a", "stale", 1, a),
        Missing("b", "dismissed", 2, None),
        Missing("b", "never submitted", 1, b),
        Missing("b", "queued", 4, None),
    ]
    enqueued = connection.execute(
        "select unnest(item_ids) from sightline.chunk where job_id in (%s, %s) order by 1", (a, b)
    ).fetchall()
    assert enqueued == lacking
    assert connection.execute("select count(*) from sightline.failed_items").fetchone() == (
        0,
    )  # settled by the new job
    assert {each.reason for each in client.reconcile()} == {"dismissed", "queued"}
    for job in (a, b, queued):
        do(connection, job)
    assert progress(connection, a) == ("done", 4, 4, 0, 0, 0, 0)
    assert {each.reason for each in client.reconcile()} == {"dismissed"}
    assert breaches(connection) == []


def test_reconcile_takes_one_collection(connection: psycopg.Connection, client: Sightline) -> None:
    for name in "ab":
        fail(connection, submit(connection, 1, name))
    assert [each.collection for each in client.reconcile(collection="b")] == ["b"]
    with pytest.raises(RequestRefused, match='there is no collection "nope"'):
        client.reconcile(collection="nope")
    with pytest.raises(RequestRefused, match="nope"):
        client.reconcile("nope")


# --- what is kept of finished jobs ---


def kept(connection: psycopg.Connection) -> set[int]:
    return {row[0] for row in connection.execute("select job_id from sightline.job").fetchall()}


def test_finished_jobs_are_forgotten_and_counted_and_open_failures_keep_theirs(
    connection: psycopg.Connection, client: Sightline
) -> None:
    connection.execute("truncate sightline.forgotten")
    done, broken, settled, unfinished = (submit(connection, n, "c") for n in (3, 2, 2, 1))
    do(connection, done)
    for job in (broken, settled):
        fail(connection, job)
    client.dismiss(job_id=settled)
    forget = "select sightline.forget_jobs(%s::interval)"
    assert connection.execute(forget, ("1 day",)).fetchone() == (0,)
    assert connection.execute(forget, ("0 s",)).fetchone() == (2,)
    assert kept(connection) == {broken, unfinished}
    assert connection.execute("select jobs, items, failures from sightline.forgotten").fetchone() == (2, 5, 2)
    assert connection.execute("select count(*) from sightline.embedding").fetchone() == (3,)
    assert breaches(connection) == []


def test_a_retry_is_kept_as_long_as_the_failures_that_it_settled(
    connection: psycopg.Connection, client: Sightline
) -> None:
    broken = submit(connection, 2)
    fail(connection, broken)
    one = connection.execute("select min(failure_id) from sightline.failure").fetchone()[0]
    (made,) = client.retry(failure_ids=[one])
    assert made.new_job_id is not None
    do(connection, made.new_job_id)
    forget = "select sightline.forget_jobs('0 s')"
    assert connection.execute(forget).fetchone() == (
        0,
    )  # the other failure is open, and this one says which job did it
    client.dismiss(job_id=broken)
    assert connection.execute(forget).fetchone() == (1,)
    assert kept(connection) == {made.new_job_id}
    assert connection.execute("select retry_of from sightline.job").fetchone() == (None,)
    assert connection.execute(forget).fetchone() == (1,)
