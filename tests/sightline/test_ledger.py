"""The ledger's moves in SQL: order, fences, counts, and that a long history or backlog costs nothing."""

from __future__ import annotations

import uuid

import psycopg
import pytest

WORKER = uuid.uuid4()


@pytest.fixture(autouse=True)
def empty(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "truncate sightline.job, sightline.worker, sightline.leader, sightline.item, sightline.collection cascade"
        )
        connection.execute("select sightline.create_space('toy', 'points', 4)")
        connection.execute("select sightline.alias_space('current', 'toy')")
        beat(connection, WORKER, slots=2)


def beat(connection: psycopg.Connection, worker: uuid.UUID, slots: int = 2, ago: str = "0 s") -> None:
    connection.execute(
        "insert into sightline.worker (worker_id, name, pid, slots, free_slots, queues, seen_at) "
        "values (%s, 'w', 1, %s, %s, '{encode}', clock_timestamp() - %s::interval)",
        (worker, slots, slots, ago),
    )


def submit(connection: psycopg.Connection, n: int, lane: str = "normal", run_at: str = "now") -> int:
    return connection.execute(
        "select sightline.submit('encode', '{}', 'c', (select jsonb_agg(jsonb_build_object('text', %s || i)) from generate_series(1, %s) i), "
        "%s, %s)",
        (str(uuid.uuid4()), n, lane, run_at),
    ).fetchone()[0]


def take(connection: psycopg.Connection, per_slot: int = 4) -> list[tuple[str, list[int]]]:
    rows = connection.execute(
        "select lane, chunk_ids from sightline.take_unpublished('15 s', %s)", (per_slot,)
    ).fetchall()
    return [(lane, ids) for lane, ids in rows]


def claim(connection: psycopg.Connection, ids: list[int], worker: uuid.UUID = WORKER) -> list[tuple[int, int]]:
    return connection.execute(
        "select chunk_id, fence from sightline.claim(%s, %s) order by 1", (ids, worker)
    ).fetchall()


def test_urgent_lanes_go_first_and_redis_stays_shallow(connection: psycopg.Connection) -> None:
    submit(connection, 64 * 6, "bulk")
    submit(connection, 64 * 3, "normal")
    submit(connection, 1, "interactive")
    published = take(connection)
    assert [lane for lane, _ in published] == ["interactive", "normal", "bulk"]
    assert [len(ids) for _, ids in published] == [1, 3, 4]  # eight in all: four for each of two slots
    assert take(connection) == []


def test_a_message_holds_at_most_256_items(connection: psycopg.Connection) -> None:
    submit(connection, 64 * 9)
    sizes = []
    for _, ids in take(connection, per_slot=9):
        sizes.append(
            connection.execute(
                "select sum(cardinality(item_ids)) from sightline.chunk where chunk_id = any(%s)", (ids,)
            ).fetchone()[0]
        )
    assert sum(sizes) == 64 * 9
    assert max(sizes) <= 256


def test_a_queue_without_live_workers_gets_nothing(connection: psycopg.Connection) -> None:
    submit(connection, 5)
    connection.execute("update sightline.worker set seen_at = clock_timestamp() - interval '20 s'")
    assert take(connection) == []


def test_work_of_the_future_waits(connection: psycopg.Connection) -> None:
    submit(connection, 1, run_at="tomorrow")
    assert take(connection) == []
    ids = [row[0] for row in connection.execute("select chunk_id from sightline.chunk").fetchall()]
    assert claim(connection, ids) == []


def test_a_duplicate_message_finds_nothing(connection: psycopg.Connection) -> None:
    submit(connection, 1)
    ((_, ids),) = take(connection)
    assert claim(connection, ids) == [(ids[0], 1)]
    assert claim(connection, ids, uuid.uuid4()) == []


def test_released_chunks_cost_no_attempt_and_raise_the_fence(connection: psycopg.Connection) -> None:
    submit(connection, 1)
    ((_, ids),) = take(connection)
    claim(connection, ids)
    assert connection.execute("select sightline.release(%s, %s)", (ids, WORKER)).fetchone() == (1,)
    assert take(connection) == [("normal", ids)]
    assert claim(connection, ids) == [(ids[0], 2)]
    assert connection.execute("select attempt from sightline.chunk").fetchone() == (0,)


def test_the_chunks_of_a_silent_worker_come_back_until_the_attempts_are_spent(connection: psycopg.Connection) -> None:
    job = submit(connection, 3)
    for attempt in range(3):
        connection.execute("update sightline.chunk set run_at = now()")
        ((_, ids),) = take(connection)
        claim(connection, ids)
        connection.execute("update sightline.worker set seen_at = clock_timestamp() - interval '16 s'")
        assert connection.execute("select sightline.sweep('15 s', 3)").fetchone() == (1,)
        connection.execute("update sightline.worker set seen_at = clock_timestamp()")
        assert connection.execute("select attempt from sightline.chunk").fetchone() == (attempt + 1,)
    row = connection.execute(
        "select state, submitted, done, failed, pending from sightline.job_progress where job_id = %s", (job,)
    ).fetchone()
    assert row == ("done", 3, 0, 3, 0)
    classes = connection.execute("select distinct error_class from sightline.failed_items").fetchall()
    assert classes == [("WorkerLost",)]


def test_a_fresh_worker_keeps_its_chunks(connection: psycopg.Connection) -> None:
    submit(connection, 1)
    ((_, ids),) = take(connection)
    claim(connection, ids)
    assert connection.execute("select sightline.sweep('15 s', 3)").fetchone() == (0,)


def test_a_late_failure_report_of_a_lost_lease_is_refused(connection: psycopg.Connection) -> None:
    submit(connection, 1)
    ((_, ids),) = take(connection)
    claim(connection, ids)
    connection.execute("select sightline.release(%s, %s)", (ids, WORKER))
    claim(connection, ids)
    assert connection.execute("select sightline.fail_chunk(%s, 1, 'X', 'late', 3)", (ids[0],)).fetchone() == ("lost",)
    assert connection.execute("select sightline.fail_chunk(%s, 2, 'X', 'mine', 3)", (ids[0],)).fetchone() == (
        "retried",
    )


def test_the_database_refuses_counts_that_do_not_add_up(connection: psycopg.Connection) -> None:
    submit(connection, 2)
    with pytest.raises(psycopg.errors.CheckViolation, match="chunk_done_adds_up"):
        connection.execute("update sightline.chunk set state = 'done', n_done = 1")


def test_one_leads_until_its_lease_ends(connection: psycopg.Connection) -> None:
    first, second = uuid.uuid4(), uuid.uuid4()

    def lead(worker: uuid.UUID, lease: str = "6 s") -> bool:
        return connection.execute("select sightline.lead('dispatcher', %s, %s)", (worker, lease)).fetchone()[0]

    assert lead(first)
    assert lead(first)
    assert not lead(second)
    assert lead(first, "-1 s")  # its lease is over
    assert lead(second)
    assert not lead(first)


def test_a_long_history_and_a_long_backlog_do_not_slow_the_dispatcher(connection: psycopg.Connection) -> None:
    """By what is read, not by the clock: publishing touches a few pages of a table of thousands."""
    job = submit(connection, 1)
    connection.execute(
        "insert into sightline.chunk (job_id, item_ids, space_id, queue, lane, state, n_done) "
        "select %s, '{1}', (select space_id from sightline.space), 'encode', 'bulk', 'done', 1 from generate_series(1, 100000)",
        (job,),
    )
    connection.execute(
        "insert into sightline.chunk (job_id, item_ids, space_id, queue, lane) "
        "select %s, '{1}', (select space_id from sightline.space), 'encode', 'bulk' from generate_series(1, 20000)",
        (job,),
    )
    connection.execute("analyze sightline.chunk")
    pages = connection.execute("select pg_relation_size('sightline.chunk') / 8192").fetchone()[0]
    assert pages > 1000
    connection.execute("select * from sightline.take_unpublished('15 s', 1)")  # the first call of a session plans
    plan = connection.execute(
        "explain (analyze, buffers, format json) select * from sightline.take_unpublished('15 s', 4)"
    ).fetchone()[0]
    top = plan[0]["Plan"]
    assert top["Shared Hit Blocks"] + top["Shared Read Blocks"] < 300
