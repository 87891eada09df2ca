"""The checker of the drills finds what is wrong: each promise is broken on purpose and must be reported."""

from __future__ import annotations

import uuid

import psycopg
import pytest

from sightline.broker import CHUNKS_TASK, Broker
from sightline.client import Sightline
from tests.drills.invariants import breaches, census, redis_breaches, settled_breaches
from tests.sightline.test_ledger import beat, claim

WORKER, SILENT = uuid.UUID(int=1), uuid.UUID(int=2)  # the same in every process that collects the tests


def store(connection: psycopg.Connection, chunk_id: int) -> None:
    """What a worker does with a chunk: one item is stored, the others fail, the chunk is closed."""
    job_id, space_id, item_ids = connection.execute(
        "select job_id, space_id, item_ids from sightline.chunk where chunk_id = %s", (chunk_id,)
    ).fetchone()
    connection.execute(
        "insert into sightline.embedding (space_id, item_id, generation, norm, modality, vec) values (%s, %s, 1, 1, 'text', '[1,0,0,0]')",
        (space_id, item_ids[0]),
    )
    connection.execute(
        "insert into sightline.failure (job_id, chunk_id, item_id, generation, external_id, error_class, message) "
        "select %s, %s, item_id, generation, external_id, 'Broken', 'it broke' from sightline.item where item_id = any(%s)",
        (job_id, chunk_id, item_ids[1:]),
    )
    connection.execute(
        "update sightline.chunk set state = 'done', worker_id = null, finished_at = now(), n_done = 1, n_failed = cardinality(item_ids) - 1 "
        "where chunk_id = %s",
        (chunk_id,),
    )


@pytest.fixture(scope="module", autouse=True)
def _space(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("select sightline.create_space('toy', 'points', 4)")
        connection.execute("select sightline.alias_space('current', 'toy')")


@pytest.fixture
def job(connection: psycopg.Connection, client: Sightline) -> int:
    """A finished job of three items, one stored and two failed, in an otherwise empty ledger."""
    connection.execute("truncate sightline.job, sightline.worker, sightline.item, sightline.collection cascade")
    beat(connection, WORKER)
    beat(connection, SILENT, ago="21 s")
    job_id = client.submit("encode", {}, collection="c", items=[{"text": text} for text in "abc"]).job_id
    (chunk_id,) = connection.execute("select chunk_id from sightline.chunk").fetchone()
    claim(connection, [chunk_id], WORKER)
    assert breaches(connection) == []
    store(connection, chunk_id)
    connection.execute("select sightline.close_job(%s)", (job_id,))
    return int(job_id)


def test_nothing_is_said_of_a_sound_ledger(connection: psycopg.Connection, job: int, broker: Broker) -> None:
    assert settled_breaches(connection, broker.redis, broker.key_prefix) == []
    found = census(connection)
    assert found == census(connection, [job])
    assert (found.items_in, found.stored, found.failed, found.duplicates, found.lost) == (3, 1, 2, 0, 0)


@pytest.mark.parametrize(
    ("damage", "breach"),
    [
        ("update sightline.job set n_submitted = n_submitted + 1", "counts_add_up: job"),
        ("update sightline.job set n_submitted = n_submitted + 1", "moved_once: job"),
        ("delete from sightline.failure where failure_id = (select min(failure_id) from sightline.failure)", "failures_have_rows: chunk"),
        ("delete from sightline.failure where failure_id = (select min(failure_id) from sightline.failure)", "done_is_stored: item"),
        ("delete from sightline.embedding", "done_is_stored: item"),
        ("update sightline.embedding set generation = 7", "stored_once: item"),
        ("update sightline.chunk set state = 'queued'", "finished_is_over: job"),
        ("update sightline.chunk set state = 'queued'", "terminal_chunks_add_up: chunk"),
        ("update sightline.chunk set state = 'queued'", "no_open_chunks: chunk"),
        ("update sightline.job set sealed_at = null", "finished_is_over: job"),
        ("update sightline.job set state = 'running', finished_at = null", "jobs_are_over: job"),
        ("update sightline.chunk set state = 'running', worker_id = gen_random_uuid()", "leases_have_workers: chunk"),
        (f"update sightline.chunk set state = 'running', worker_id = '{SILENT}'", "leases_have_workers: chunk"),
    ],
)  # fmt: skip
def test_each_broken_promise_is_reported(connection: psycopg.Connection, job: int, damage: str, breach: str) -> None:
    connection.execute(damage)
    assert any(line.startswith(breach) for line in settled_breaches(connection))


def test_lost_and_doubled_items_are_counted(connection: psycopg.Connection, job: int) -> None:
    connection.execute("delete from sightline.embedding")
    assert census(connection).lost == 1
    connection.execute(
        "insert into sightline.chunk (job_id, item_ids, space_id, queue, lane, state, n_done) "
        "select job_id, item_ids, space_id, queue, lane, 'done', 3 from sightline.chunk"
    )
    assert census(connection).duplicates == 3  # ended twice


def test_what_is_left_in_redis_is_named(broker: Broker) -> None:
    broker.push("encode", CHUNKS_TASK, [{"chunk_ids": [1]}])
    broker.redis.hset(broker.key_prefix + "unacked", "tag", "a message")
    broker.redis.sadd(broker.key_prefix + "_kombu.binding.encode", "x")
    broker.redis.set(broker.key_prefix + "reply:1", "x", ex=60)
    assert redis_breaches(broker.redis, broker.key_prefix) == [
        "Redis still holds encode (list)",
        "Redis still holds unacked (hash)",
    ]
    broker.redis.delete(*broker.redis.keys(broker.key_prefix + "*"))
