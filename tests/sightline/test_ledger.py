"""The ledger's moves in SQL: order, fences, counts, and that a long history or backlog costs nothing."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tests.drills.invariants import breaches

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


def submit(
    connection: psycopg.Connection, n: int, lane: str = "normal", run_at: str = "now", collection: str = "c"
) -> int:
    return connection.execute(
        "select sightline.submit('encode', '{}', %s, (select jsonb_agg(jsonb_build_object('text', %s || i)) from generate_series(1, %s) i), "
        "%s, %s)",
        (collection, str(uuid.uuid4()), n, lane, run_at),
    ).fetchone()[0]


def take(connection: psycopg.Connection, per_slot: int = 4) -> list[tuple[str, list[int]]]:
    rows = connection.execute(
        "select lane, chunk_ids from sightline.take_unpublished('1 h', %s)", (per_slot,)
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
    assert [lane for lane, _ in published] == ["interactive", "normal", "bulk", "bulk"]
    # 512 items in all, four full chunks for each of two slots, and the rest of the chunk that reaches that.
    assert [len(ids) for _, ids in published] == [1, 3, 4, 1]
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
    connection.execute("update sightline.worker set seen_at = clock_timestamp() - interval '61 min'")
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


def lose(connection: psycopg.Connection, worker: uuid.UUID = WORKER) -> int:
    """A worker is lost and swept, and another comes in its place; returns how many chunks it held."""
    connection.execute(
        "update sightline.worker set seen_at = clock_timestamp() - interval '16 s' where worker_id = %s", (worker,)
    )
    swept = connection.execute("select sightline.sweep('15 s', 3)").fetchone()[0]
    connection.execute("update sightline.worker set seen_at = clock_timestamp()")
    connection.execute("update sightline.chunk set run_at = now() where state = 'queued'")  # no back-off here
    return swept


def open_chunks(connection: psycopg.Connection) -> list[tuple[int, bool, int, int]]:
    """Items, whether suspect, attempt and losses of what is open, the largest first."""
    return connection.execute(
        "select cardinality(item_ids), suspect, attempt, losses from sightline.chunk where state in ('queued', 'running') "
        "order by 1 desc, 2, 3, chunk_id"
    ).fetchall()


def finish(connection: psycopg.Connection, chunk_id: int, fence: int, worker: uuid.UUID = WORKER) -> None:
    """What a worker does at the end of a chunk: a point for each item that is still there, and its counts."""
    with connection.transaction():
        item_ids, present = connection.execute(
            "select c.item_ids, array(select i.item_id from sightline.item i where i.item_id = any(c.item_ids) order by 1 for key share) "
            "from sightline.chunk c where c.chunk_id = %s",
            (chunk_id,),
        ).fetchone()
        connection.execute(
            "insert into sightline.embedding as e (space_id, item_id, generation, norm, modality, vec) "
            "select c.space_id, i.item_id, i.generation, 1, i.modality, '[1,0,0,0]' from sightline.chunk c join sightline.item i "
            "on i.item_id = any(c.item_ids) where c.chunk_id = %s order by i.item_id on conflict (space_id, item_id, slot) do update "
            "set generation = excluded.generation where e.generation <= excluded.generation",
            (chunk_id,),
        )
        connection.execute(
            "select sightline.finish_chunks(%s, %s, %s, %s, '{0}', %s, '{0}')",
            (worker, [chunk_id], [fence], [len(present)], [len(item_ids) - len(present)]),
        )


# --- lost workers and suspects ---


def test_the_items_of_a_lost_worker_go_on_as_suspects_in_pieces_and_cost_nothing(
    connection: psycopg.Connection,
) -> None:
    job = submit(connection, 64 + 20)
    ((_, ids),) = take(connection)
    claim(connection, ids)
    assert lose(connection) == 2
    assert open_chunks(connection) == [(16, True, 0, 0)] * 5 + [(4, True, 0, 0)]
    row = connection.execute(
        "select submitted, done, failed, pending from sightline.job_progress where job_id = %s", (job,)
    ).fetchone()
    assert row == (84, 0, 0, 84)


def test_a_worker_holds_one_suspect_at_a_time(connection: psycopg.Connection) -> None:
    submit(connection, 64)
    ((_, ids),) = take(connection)
    claim(connection, ids)
    lose(connection)
    submit(connection, 3)
    other = uuid.uuid4()
    beat(connection, other)
    published = [ids for _, ids in take(connection)]
    assert [len(ids) for ids in published] == [1, 1, 1]  # a suspect for each of two workers, and what is not suspected
    assert take(connection) == []
    first, second, plain = published
    assert len(claim(connection, first)) == 1
    assert claim(connection, second) == []  # two messages may come to one worker
    assert len(claim(connection, plain)) == 1
    assert take(connection) == [("normal", second)]
    assert len(claim(connection, second, other)) == 1
    assert (
        claim(connection, [row[0] for row in connection.execute("select chunk_id from sightline.chunk").fetchall()])
        == []
    )


def test_two_threads_of_a_worker_never_claim_two_suspects(connection: psycopg.Connection, database_url: str) -> None:
    submit(connection, 64)
    ((_, ids),) = take(connection)
    claim(connection, ids)
    lose(connection)
    suspects = [row[0] for row in connection.execute("select chunk_id from sightline.chunk where suspect").fetchall()]

    def claim_one(chunk_id: int) -> int:
        with psycopg.connect(database_url, autocommit=True) as own:
            return len(claim(own, [chunk_id]))

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(claim_one, suspects * 3)) == 1


def test_only_the_item_that_kills_is_charged_and_the_second_time_it_fails(connection: psycopg.Connection) -> None:
    """A worker process dies whenever it holds one item. Everything else is done, uncharged."""
    job = submit(connection, 64 * 2)
    guilty = connection.execute("select max(item_id) - 20 from sightline.item").fetchone()[0]
    deaths = 0
    while open_chunks(connection):
        assert deaths < 10
        for _, ids in take(connection):
            claim(connection, ids)
        held = connection.execute(
            "select chunk_id, fence, %s = any(item_ids) from sightline.chunk where state = 'running'", (guilty,)
        ).fetchall()
        for chunk_id, fence, kills in held:
            if kills:
                lose(connection)
                deaths += 1
                break
            finish(connection, chunk_id, fence)
        connection.execute("update sightline.chunk set run_at = now() where state = 'queued'")
        assert breaches(connection) == []
    assert deaths == 4  # in a full chunk, among sixteen, alone and alone again
    connection.execute("select sightline.sweep('15 s', 3)")
    row = connection.execute(
        "select state, submitted, done, failed from sightline.job_progress where job_id = %s", (job,)
    ).fetchone()
    assert row == ("done", 128, 127, 1)
    failures = connection.execute("select item_id, error_class, attempt from sightline.failed_items").fetchall()
    assert failures == [(guilty, "WorkerLost", 2)]


def test_who_was_beside_a_suspect_goes_back_as_it_was_once(connection: psycopg.Connection) -> None:
    submit(connection, 1)
    ((_, single),) = take(connection)
    claim(connection, single)
    lose(connection)
    assert open_chunks(connection) == [(1, True, 1, 1)]  # it was all that the worker held
    submit(connection, 64)
    for losses in (1, 0):
        for _, ids in take(connection):
            claim(connection, ids)
        lose(connection)
        assert [chunk for chunk in open_chunks(connection) if not chunk[1]] == [(64, False, 0, 1)] * losses
        connection.execute("update sightline.chunk set losses = 0 where cardinality(item_ids) = 1 and state = 'queued'")
    assert [row[0] for row in open_chunks(connection)].count(16) == 4


def test_chunks_that_a_stopped_worker_left_are_neither_suspect_nor_charged(connection: psycopg.Connection) -> None:
    submit(connection, 5)
    ((_, ids),) = take(connection)
    claim(connection, ids)
    connection.execute("update sightline.worker set stopped_at = clock_timestamp()")
    assert connection.execute("select sightline.sweep('15 s', 3)").fetchone() == (1,)
    assert open_chunks(connection) == [(5, False, 0, 0)]


def test_a_worker_that_is_declared_lost_is_swept_at_once(connection: psycopg.Connection) -> None:
    submit(connection, 5)
    ((_, ids),) = take(connection)
    claim(connection, ids)
    assert connection.execute("select sightline.declare_lost('w')").fetchone() == (True,)
    assert connection.execute("select sightline.declare_lost('w')").fetchone() == (False,)
    assert connection.execute("select sightline.sweep('15 s', 3)").fetchone() == (1,)


def test_late_results_of_a_lost_claim_are_refused(connection: psycopg.Connection) -> None:
    submit(connection, 1)
    ((_, ids),) = take(connection)
    ((chunk_id, fence),) = claim(connection, ids)
    lose(connection)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="it holds 0"):
        finish(connection, chunk_id, fence)
    ((_, again),) = take(connection)
    other = uuid.uuid4()
    ((_, newer),) = claim(connection, again, other)
    held = "select sightline.hold_claims(%s, %s, %s)"
    assert connection.execute(held, (WORKER, again, [fence])).fetchall() == []
    assert connection.execute(held, (other, again, [fence])).fetchall() == []
    assert connection.execute(held, (other, again, [newer])).fetchall() == [(again[0],)]


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


# --- what goes next ---


def test_a_collection_with_one_chunk_does_not_wait_for_one_with_a_million(connection: psycopg.Connection) -> None:
    submit(connection, 64 * 30, collection="big")
    first = [chunk_id for _, ids in take(connection) for chunk_id in ids]
    small = [submit(connection, 1, collection=f"small {n}") for n in range(5)]
    finish(connection, *claim(connection, first[:1])[0])
    served = []
    while len(served) < 5:  # one chunk's room at a time
        for _, ids in take(connection):
            for chunk_id, fence in claim(connection, ids):
                served += connection.execute(
                    "select job_id from sightline.chunk where chunk_id = %s and job_id = any(%s)", (chunk_id, small)
                ).fetchall()
                finish(connection, chunk_id, fence)
    assert [row[0] for row in served] == small
    done = connection.execute("select done from sightline.job_progress where submitted > 1").fetchone()[0]
    assert done <= 64 * 2


def test_collections_take_turns(connection: psycopg.Connection) -> None:
    jobs = {submit(connection, 64 * 9, collection=name): 0 for name in "abc"}
    for _ in range(12):  # two chunks at a time
        for _, ids in take(connection, per_slot=1):
            for chunk_id, fence in claim(connection, ids):
                finish(connection, chunk_id, fence)
                jobs[
                    connection.execute(
                        "select job_id from sightline.chunk where chunk_id = %s", (chunk_id,)
                    ).fetchone()[0]
                ] += 1
        assert max(jobs.values()) - min(jobs.values()) <= 1
    assert sum(jobs.values()) == 24


def test_bulk_work_is_not_starved_by_the_normal_lane(connection: psycopg.Connection) -> None:
    submit(connection, 64 * 30, "bulk", collection="patient")
    submit(connection, 64 * 30, "normal", collection="busy")
    assert {lane for lane, _ in take(connection, per_slot=2)} == {"normal"}
    connection.execute("update sightline.chunk set run_at = now() - interval '31 s' where lane = 'bulk'")
    connection.execute("update sightline.chunk set state = 'cancelled' where published_at is not null")
    assert [(lane, len(ids)) for lane, ids in take(connection, per_slot=2)] == [("normal", 3), ("bulk", 1)]
    connection.execute("update sightline.chunk set state = 'cancelled' where published_at is not null")
    assert {lane for lane, _ in take(connection, per_slot=2)} == {"normal"}  # it had its turn


def test_small_chunks_share_a_message(connection: psycopg.Connection) -> None:
    for name in "ab":
        backlog(connection, submit(connection, 1, collection=name), 299)
    messages = [ids for _, ids in take(connection)]
    assert [len(ids) for ids in messages] == [2, 256, 254]
    assert take(connection) == []
    assert len(claim(connection, messages[1])) == 256


def pages_read(connection: psycopg.Connection, statement: str) -> tuple[int, int]:
    """Rows that a statement returns, and pages of 8 kB that it reads."""
    plan = connection.execute(f"explain (analyze, buffers, format json) {statement}").fetchone()[0][0]["Plan"]
    return plan["Actual Rows"], plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


def backlog(connection: psycopg.Connection, job: int, count: int, **columns: object) -> None:
    """Rows of chunks as submit and workers leave them, in bulk."""
    names = "".join(f", {name}" for name in columns)
    values = "".join(", %s" for _ in columns)
    connection.execute(
        f"insert into sightline.chunk (job_id, collection_id, item_ids, space_id, queue, lane{names}) "
        f"select j.job_id, j.collection_id, '{{1}}', j.space_id, 'encode', 'bulk'{values} from sightline.job j, generate_series(1, %s) where job_id = %s",
        (*columns.values(), count, job),
    )


def many_jobs(connection: psycopg.Connection) -> None:
    """20,000 other jobs, none of which concerns what is published."""
    connection.execute(
        "insert into sightline.job (kind, space_id, state, sealed_at, finished_at) "
        "select 'encode', space_id, 'done', now(), now() from sightline.space, generate_series(1, 20000)"
    )
    connection.execute("analyze sightline.job")


TAKE = "select * from sightline.take_unpublished('1 h', 4)"


def test_a_long_history_and_a_long_backlog_do_not_slow_the_dispatcher(connection: psycopg.Connection) -> None:
    """By what is read, not by the clock: publishing touches a few pages of a table of thousands."""
    job = submit(connection, 1)
    backlog(connection, job, 60000, state="done", n_done=1)
    backlog(connection, job, 20000)
    connection.execute("analyze sightline.chunk")
    pages = connection.execute("select pg_relation_size('sightline.chunk') / 8192").fetchone()[0]
    assert pages > 1000
    take(connection)  # it publishes 512 items, and the first call of a session plans
    assert pages_read(connection, TAKE)[0] == 0
    _, looked = pages_read(connection, TAKE)
    assert looked < 700  # it counts what is in flight: 512 rows
    connection.execute("update sightline.chunk set state = 'cancelled' where published_at is not null")
    messages, published = pages_read(connection, TAKE)
    assert messages == 2
    assert published < 512 * 30  # each into a handful of indexes


def test_held_work_at_the_head_of_a_queue_costs_nothing(connection: psycopg.Connection) -> None:
    """20,000 paused chunks, as many of a collection at its rate limit and as many of tomorrow lie before the ones that may go."""
    paused, limited, later = (submit(connection, 1, "bulk", collection=name) for name in ("paused", "limited", "later"))
    take(connection)
    connection.execute("update sightline.chunk set state = 'cancelled'")
    many_jobs(connection)
    for job in (paused, limited):
        backlog(connection, job, 20000)
    backlog(connection, later, 20000, run_at="tomorrow")
    backlog(
        connection, submit(connection, 1, "bulk", collection="free"), 20000, run_at="tomorrow"
    )  # behind one that may go
    connection.execute("select sightline.pause(collection => 'paused')")
    connection.execute("select sightline.rate_limit('limited', 1)")
    connection.execute("update sightline.rate_limit set allowance = -1000")
    connection.execute("analyze sightline.chunk")
    connection.execute("begin")
    assert [len(ids) for _, ids in take(connection)] == [1]
    connection.execute("rollback")
    messages, pages = pages_read(connection, TAKE)
    assert messages == 1
    assert pages < 200
