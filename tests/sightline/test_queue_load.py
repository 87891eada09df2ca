"""The signals by which pools are scaled: how long a queue's work has waited, and what it costs."""

from __future__ import annotations

import json

import psycopg
import pytest

from sightline.client import Sightline


@pytest.fixture(scope="module", autouse=True)
def spaces(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute(
            "select sightline.create_space('fast', 'm', 2), sightline.create_space('slow', 'm2', 2, pool => 'big')"
        )
        owner.execute("select sightline.alias_space('current', 'fast')")


def load(connection: psycopg.Connection, queue: str) -> tuple[int, int, float, float, int]:
    row = connection.execute(
        "select queued_items, running_items, age_seconds, cost_seconds, workers from sightline.queue_load where queue = %s",
        (queue,),
    ).fetchone()
    assert row is not None
    return row


def submit(client: Sightline, collection: str, count: int, space: str) -> int:
    texts = [{"text": f"{collection} {n}"} for n in range(count)]
    return client.submit("encode", {"space": space}, collection=collection, items=texts).job_id


def worker(connection: psycopg.Connection, paces: dict[str, float], ago: str = "0 s", *, stopped: bool = False) -> None:
    connection.execute(
        "insert into sightline.worker (worker_id, name, pid, slots, free_slots, queues, paces, seen_at, stopped_at) values "
        "(gen_random_uuid(), 'w', 1, 2, 2, %s, %s, clock_timestamp() - %s::interval, case when %s then now() end)",
        (["encode"] if not stopped else [], json.dumps(paces), ago, stopped),
    )


def test_a_queue_costs_its_items_at_the_pace_that_workers_measured(
    client: Sightline, connection: psycopg.Connection
) -> None:
    assert load(connection, "encode") == load(connection, "encode.big") == (0, 0, 0.0, 0.0, 0)
    submit(client, "a", 200, "fast")
    submit(client, "b", 100, "slow")
    assert load(connection, "encode")[3] == pytest.approx(20.0)  # nobody has measured: 0.1 s an item
    fast, slow = (
        connection.execute("select space_id from sightline.space where name = %s", (name,)).fetchone()[0]
        for name in ("fast", "slow")
    )
    worker(connection, {f"encode/{fast}": 0.01, f"encode/{slow}": 2.0})
    worker(connection, {f"encode/{fast}": 0.03}, stopped=True)
    queued, running, age, cost, workers = load(connection, "encode")
    assert (queued, running, workers) == (200, 0, 1)
    assert cost == pytest.approx(200 * 0.02)
    assert 0 <= age < 60
    assert load(connection, "encode.big")[3] == pytest.approx(200.0)


def test_what_no_worker_would_start_is_left_out(client: Sightline, connection: psycopg.Connection) -> None:
    connection.execute("update sightline.chunk set run_at = clock_timestamp() - interval '90 s'")
    assert load(connection, "encode")[2] == pytest.approx(90, abs=20)
    client.pause(collection="a")
    assert load(connection, "encode")[:4] == (0, 0, 0.0, 0.0)
    client.resume(collection="a")
    client.pause(queue="encode")
    assert load(connection, "encode")[:4] == (0, 0, 0.0, 0.0)
    client.resume(queue="encode")
    job = submit(client, "c", 10, "fast")
    before = load(connection, "encode")[0]
    connection.execute(
        "update sightline.chunk set run_at = clock_timestamp() + interval '1 h' where job_id = %s", (job,)
    )
    assert load(connection, "encode")[0] == before - 10
    client.job(job).cancel()


def test_a_recall_sample_tells_a_good_index_from_a_broken_one(
    client: Sightline, connection: psycopg.Connection
) -> None:
    connection.execute("select sightline.create_space('wide', 'm3', 8)")
    assert connection.execute("select sightline.sample_recall('wide', 'text')").fetchone() == (None,)
    client.submit("encode", {"space": "wide"}, collection="d", items=[{"text": f"d {n}"} for n in range(3000)])
    store = (
        "insert into sightline.embedding (space_id, item_id, generation, norm, modality, vec) "
        "select s.space_id, i.item_id, 1, 1, 'text', "
        "(select array_agg(random()::real - 0.5) from generate_series(1, 8) where i.item_id > 0)::vector::halfvec "
        "from sightline.space s, sightline.item i where s.name = 'wide' and i.item_id %% 3 = any (%s)"
    )
    connection.execute(store, ([0],))
    sample = "select sightline.sample_recall('wide', 'text', 10, 20)"
    assert connection.execute(sample).fetchone() == (1.0,)
    connection.execute(
        "create index wide_text_hnsw on sightline.embedding_s3 using hnsw ((vec::halfvec(8)) halfvec_cosine_ops) "
        "where slot = 0 and modality = 'text'"
    )
    connection.execute("set enable_sort = off")  # as where there are too many to be sorted
    (good,) = connection.execute(sample).fetchone()
    ready = "update pg_index set indisready = %s where indexrelid = 'sightline.wide_text_hnsw'::regclass"
    connection.execute(ready, (False,))
    connection.execute(store, ([1, 2],))  # which the index does not get
    connection.execute(ready, (True,))
    (poor,) = connection.execute(sample).fetchone()
    assert good > 0.9
    assert poor < 0.6


def test_a_recall_sample_leaves_the_callers_width_as_it_was(connection: psycopg.Connection) -> None:
    sample = "select sightline.sample_recall('wide', 'text', 10, 2)"
    connection.execute(sample)  # before pgvector is loaded the setting is not known
    with connection.transaction():
        connection.execute("set local hnsw.ef_search = 77")
        assert connection.execute(sample).fetchone() is not None
        assert connection.execute("show hnsw.ef_search").fetchone() == ("77",)
