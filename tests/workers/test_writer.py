"""The flush: fenced, idempotent, counted."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import psycopg
import pytest
from pgvector.psycopg import register_vector
from psycopg.types.json import Jsonb

from tests.models.tiny_checkpoints import DIM
from workers.database import Pool, open_pool
from workers.errors import NotFound, SourceUnavailable
from workers.ingress import digest_of
from workers.ledger import MAX_ATTEMPTS, ClaimedChunk, Ledger
from workers.vector import Vector
from workers.writer import Outcome, Writer


@pytest.fixture(scope="module")
def pool(database_url: str, space: str) -> Iterator[Pool]:
    with open_pool(database_url, 4) as opened:
        yield opened


@pytest.fixture
def ledger(pool: Pool) -> Ledger:
    return Ledger(pool, uuid.uuid4())


@pytest.fixture
def writer(pool: Pool, ledger: Ledger) -> Writer:
    return Writer(pool, ledger)


@pytest.fixture
def space_id(connection: psycopg.Connection) -> int:
    row = connection.execute("select space_id from sightline.space where name = 'tiny'").fetchone()
    assert row is not None
    return int(row[0])


def claimed(connection: psycopg.Connection, ledger: Ledger, count: int) -> list[ClaimedChunk]:
    """The claimed chunks of a new job of so many texts."""
    name = uuid.uuid4().hex
    items = [{"text": f"{name} {n}", "external_id": f"{name}-{n}"} for n in range(count)]
    row = connection.execute("select sightline.submit('encode', '{}', %s, %s)", (name, Jsonb(items))).fetchone()
    assert row is not None
    return claim_job(connection, ledger, row[0])


def claimed_again(connection: psycopg.Connection, ledger: Ledger, item_ids: list[int]) -> list[ClaimedChunk]:
    """The claimed chunks of another job on the same items."""
    row = connection.execute(
        "select sightline.submit('encode', '{}', items => to_jsonb(%s::bigint[]))", (item_ids,)
    ).fetchone()
    assert row is not None
    return claim_job(connection, ledger, row[0])


def claim_job(connection: psycopg.Connection, ledger: Ledger, job_id: int) -> list[ClaimedChunk]:
    rows = connection.execute("select chunk_id from sightline.chunk where job_id = %s", (job_id,)).fetchall()
    return ledger.claim([row[0] for row in rows])


def done(connection: psycopg.Connection, chunks: list[ClaimedChunk], value: float = 1.0) -> dict[int, Outcome]:
    """A vector for each item, all of length 1 along the axis `value` says."""
    values = np.eye(DIM, dtype=np.float32)[int(value)]
    rows = connection.execute(
        "select item_id, generation, external_id, digest from sightline.item where item_id = any (%s)",
        ([item_id for chunk in chunks for item_id in chunk.item_ids],),
    ).fetchall()
    return {
        i: Outcome(i, generation, "text", name, digest, Vector(values, value)) for i, generation, name, digest in rows
    }


def embedding(connection: psycopg.Connection, item_id: int) -> tuple[int, float] | None:
    return connection.execute(
        "select generation, norm from sightline.embedding where item_id = %s", (item_id,)
    ).fetchone()


def progress(connection: psycopg.Connection, job_id: int) -> tuple[object, ...] | None:
    return connection.execute(
        "select state, submitted, done, failed, skipped, pending from sightline.job_progress where job_id = %s",
        (job_id,),
    ).fetchone()


def test_a_flush_stores_counts_and_closes(
    connection: psycopg.Connection, ledger: Ledger, writer: Writer, space_id: int
) -> None:
    chunks = claimed(connection, ledger, 100)
    assert len(chunks) == 2
    assert writer.flush(space_id, chunks, done(connection, chunks)) == Counter(done=100)
    assert progress(connection, chunks[0].job_id) == ("done", 100, 100, 0, 0, 0)


def test_vectors_are_stored_as_they_are(
    connection: psycopg.Connection, ledger: Ledger, writer: Writer, space_id: int
) -> None:
    """Bit for bit in float16, each with its own norm, modality and note."""
    chunks = claimed(connection, ledger, 3)
    rows = np.random.default_rng(3).normal(size=(3, DIM)).astype(np.float32)
    notes = [None, 'cut, "at" the {end}\\', "täglich"]
    outcomes = done(connection, chunks)
    for n, (item_id, outcome) in enumerate(sorted(outcomes.items())):
        outcomes[item_id] = replace(outcome, vector=Vector(rows[n], 0.5 + n, notes[n]))
    writer.flush(space_id, chunks, outcomes)
    register_vector(connection)
    found = connection.execute(
        "select vec, norm, modality, note from sightline.embedding where item_id = any (%s) order by item_id",
        (list(outcomes),),
    ).fetchall()
    assert [vec.to_list() for vec, *_ in found] == rows.astype(np.float16).tolist()
    assert [rest for _, *rest in found] == [[0.5 + n, "text", note] for n, note in enumerate(notes)]


def test_a_lost_lease_writes_nothing(
    connection: psycopg.Connection, ledger: Ledger, writer: Writer, space_id: int, pool: Pool
) -> None:
    chunks = claimed(connection, ledger, 70)
    lost = chunks[0]
    ledger.release([lost.chunk_id])
    (taken,) = Ledger(pool, uuid.uuid4()).claim([lost.chunk_id])
    assert taken.fence == lost.fence + 1
    outcomes = done(connection, chunks)
    assert writer.flush(space_id, chunks, outcomes) == Counter(lost=64, done=6)
    assert embedding(connection, lost.item_ids[0]) is None
    assert embedding(connection, chunks[1].item_ids[0]) == (1, 1.0)


def test_the_same_worker_with_an_old_fence_writes_nothing(
    connection: psycopg.Connection, ledger: Ledger, writer: Writer, space_id: int
) -> None:
    chunks = claimed(connection, ledger, 1)
    ledger.release([chunks[0].chunk_id])
    again = ledger.claim([chunks[0].chunk_id])
    assert writer.flush(space_id, chunks, done(connection, chunks)) == Counter(lost=1)
    assert writer.flush(space_id, again, done(connection, again)) == Counter(done=1)
    # A commit whose answer was lost is tried again, and finds its chunk done.
    assert writer.flush(space_id, again, done(connection, again, 2)) == Counter(lost=1)
    assert embedding(connection, again[0].item_ids[0]) == (1, 1.0)


def test_a_vector_of_older_content_does_not_overwrite(
    connection: psycopg.Connection, ledger: Ledger, writer: Writer, space_id: int
) -> None:
    slow = claimed(connection, ledger, 1)
    item_id = slow[0].item_ids[0]
    old = done(connection, slow, 1)
    connection.execute(
        "update sightline.item set generation = 2, text = 'new', digest = sha256('new') where item_id = %s", (item_id,)
    )
    fast = claimed_again(connection, ledger, [item_id])
    writer.flush(space_id, fast, done(connection, fast, 2))
    assert writer.flush(space_id, slow, old) == Counter(done=1)
    assert embedding(connection, item_id) == (2, 2.0)


def test_a_vector_of_older_content_is_stale(
    connection: psycopg.Connection, ledger: Ledger, writer: Writer, space_id: int
) -> None:
    """The content changes between loading and flush: the vector must not pass for one of the new content."""
    chunks = claimed(connection, ledger, 1)
    item_id = chunks[0].item_ids[0]
    outcomes = done(connection, chunks)
    connection.execute(
        "update sightline.item set generation = 2, text = 'new', digest = sha256('new') where item_id = %s", (item_id,)
    )
    writer.flush(space_id, chunks, outcomes)
    assert embedding(connection, item_id) == (1, 1.0)


def test_deleted_items_are_skipped(
    connection: psycopg.Connection, ledger: Ledger, writer: Writer, space_id: int
) -> None:
    chunks = claimed(connection, ledger, 5)
    outcomes = done(connection, chunks)
    gone, failed, *_ = chunks[0].item_ids
    outcomes[failed] = replace(outcomes[failed], vector=None, error=NotFound("gone"))
    connection.execute("delete from sightline.item where item_id = any (%s)", ([gone, failed],))
    assert writer.flush(space_id, chunks, outcomes) == Counter(done=3, skipped=2)
    assert progress(connection, chunks[0].job_id) == ("done", 5, 3, 0, 2, 0)


def test_failures_are_rows_and_passing_ones_move(
    connection: psycopg.Connection, ledger: Ledger, writer: Writer, space_id: int
) -> None:
    chunks = claimed(connection, ledger, 5)
    outcomes = done(connection, chunks)
    final, passing, *_ = chunks[0].item_ids
    outcomes[final] = replace(outcomes[final], vector=None, error=NotFound("it is not there"))
    outcomes[passing] = replace(outcomes[passing], vector=None, error=SourceUnavailable("try later"))
    assert writer.flush(space_id, chunks, outcomes) == Counter(done=3, failed=1, moved=1)
    job_id = chunks[0].job_id
    assert progress(connection, job_id) == ("running", 5, 3, 1, 0, 1)
    for attempt in range(1, MAX_ATTEMPTS):
        row = connection.execute(
            "select chunk_id, item_ids, attempt, run_at > clock_timestamp() from sightline.chunk "
            "where job_id = %s and state = 'queued'",
            (job_id,),
        ).fetchone()
        assert row is not None
        assert row[1:] == ([passing], attempt, True)
        connection.execute("update sightline.chunk set run_at = now() where chunk_id = %s", (row[0],))
        writer.flush(space_id, ledger.claim([row[0]]), outcomes)
    assert progress(connection, job_id) == ("done", 5, 3, 2, 0, 0)
    assert connection.execute(
        "select error_class, message, attempt from sightline.failed_items where job_id = %s order by attempt", (job_id,)
    ).fetchall() == [("NotFound", "it is not there", 1), ("SourceUnavailable", "try later", MAX_ATTEMPTS)]


def test_a_file_that_changed_unnoticed_is_a_new_generation(
    connection: psycopg.Connection, ledger: Ledger, writer: Writer, space_id: int
) -> None:
    chunks = claimed(connection, ledger, 2)
    outcomes = done(connection, chunks)
    first, second = chunks[0].item_ids
    connection.execute("update sightline.item set digest = null where item_id = %s", (first,))
    outcomes[second] = replace(outcomes[second], digest=digest_of(b"other bytes"))
    learnt = {item_id: replace(outcome, learnt=True) for item_id, outcome in outcomes.items()}
    writer.flush(space_id, chunks, learnt)
    rows = connection.execute(
        "select generation, digest from sightline.item where item_id = any (%s) order by item_id", ([first, second],)
    ).fetchall()
    assert rows == [(1, outcomes[first].digest), (2, outcomes[second].digest)]
    assert embedding(connection, first) == (1, 1.0)
    assert embedding(connection, second) == (2, 1.0)  # of the content that is there now


def test_two_jobs_may_share_an_item(
    connection: psycopg.Connection, ledger: Ledger, writer: Writer, space_id: int
) -> None:
    chunks = claimed(connection, ledger, 3)
    again = claimed_again(connection, ledger, chunks[0].item_ids)
    both = chunks + again
    assert writer.flush(space_id, both, done(connection, both)) == Counter(done=6)


def test_writers_of_the_same_items_do_not_deadlock(
    connection: psycopg.Connection, pool: Pool, writer: Writer, ledger: Ledger, space_id: int
) -> None:
    chunks = claimed(connection, ledger, 60)
    others = [claimed_again(connection, ledger, chunks[0].item_ids) for _ in range(5)]
    counts: list[Counter[str]] = []

    def flush(mine: list[ClaimedChunk], outcomes: dict[int, Outcome]) -> None:
        counts.append(writer.flush(space_id, mine, outcomes))

    threads = [threading.Thread(target=flush, args=(mine, done(connection, mine))) for mine in [chunks, *others]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert counts == [Counter(done=60)] * 6


def test_a_broken_connection_is_replaced(
    connection: psycopg.Connection, ledger: Ledger, writer: Writer, space_id: int
) -> None:
    chunks = claimed(connection, ledger, 3)
    connection.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'sightline-worker'"
    )
    assert writer.flush(space_id, chunks, done(connection, chunks)) == Counter(done=3)
