"""Search in SQL: the plans it must have, and the rows that it must not lose."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psycopg
import pytest

from sightline.client import Sightline
from sightline.errors import RequestRefused, UsageError
from sightline.space import index_space, index_status
from tests.sightline.points import DIM, around, literal, store, unit

EAST, NORTH = np.eye(DIM)[0], np.eye(DIM)[1]
N = 20_000


@pytest.fixture(scope="module", autouse=True)
def points(database_url: str, client: Sightline) -> dict[str, list[int]]:
    """19,800 common images round EAST, 200 rare ones (1 %) round NORTH, 500 texts closer to EAST than any image."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("select sightline.create_space('toy', 'points', %s)", (DIM,))
        connection.execute("select sightline.create_space('wide', 'points', %s)", (2 * DIM,))
        connection.execute("select sightline.alias_space('current', 'toy')")
        common, rare = around(EAST, N - 200, 0.25, 1), around(NORTH, 200, 0.05, 2)
        metadata = [json.dumps({"kind": "common", "n": n, "tag": f"t{n % 7}"}) for n in range(N - 200)]
        metadata += [json.dumps({"kind": "rare", "n": n, "note": None}) for n in range(200)]
        ids = store(connection, "toy", "points", "image", np.vstack([common, rare]), metadata)
        texts = store(connection, "toy", "points", "text", around(EAST, 500, 0.01, 3), ["{}"] * 500)
        store(
            connection,
            "wide",
            "others",
            "image",
            unit(np.random.default_rng(4).normal(size=(50, 2 * DIM))),
            ["{}"] * 50,
        )
    assert index_space(client.database, "toy") == ["toy_image_hnsw", "toy_text_hnsw"]
    return {"common": ids[: N - 200], "rare": ids[N - 200 :], "text": texts}


def explain(connection: psycopg.Connection, query: str, *params: object) -> str:
    return "\n".join(row[0] for row in connection.execute("explain (costs off) " + query, params or None).fetchall())


def test_the_typed_view_is_searched_by_its_index(connection: psycopg.Connection) -> None:
    plan = explain(
        connection, f"select item_id from sightline.toy_image order by embedding <=> '{literal(EAST)}' limit 10"
    )
    assert "Index Scan using toy_image_hnsw" in plan
    assert "item" not in plan.replace("item_id", ""), (
        "the joins of the view must vanish when their columns are not read"
    )


def test_a_filter_on_a_joined_table_keeps_the_index(connection: psycopg.Connection) -> None:
    connection.execute("create table if not exists product (item_id bigint primary key, shop int)")
    connection.execute("insert into product select item_id, item_id % 3 from sightline.item on conflict do nothing")
    connection.execute("analyze product")
    plan = explain(
        connection,
        "select v.external_id, p.shop from sightline.toy_image v join product p using (item_id) "
        f"where p.shop = 1 and v.metadata->>'tag' <> 't3' order by v.embedding <=> '{literal(EAST)}' limit 10",
    )
    assert "Index Scan using toy_image_hnsw" in plan


def test_a_query_vector_from_a_subquery_joined_with_a_table_of_ones_own_keeps_the_index(
    connection: psycopg.Connection,
) -> None:
    connection.execute("create table if not exists catalogue (photo text primary key, stock int)")
    connection.execute(
        "insert into catalogue select external_id, item_id % 3 from sightline.toy_image on conflict do nothing"
    )
    connection.execute("analyze catalogue")
    plan = explain(
        connection,
        "select c.stock, v.embedding <=> (select embedding from sightline.current_image where external_id = 'image-7') as distance "
        "from sightline.current_image v join catalogue c on c.photo = v.external_id "
        "where v.collection_id = (select collection_id from sightline.collection where name = 'points') and c.stock > 0 order by distance limit 10",
    )
    assert "Index Scan using toy_image_hnsw" in plan


def test_a_generic_prepared_plan_keeps_the_index(connection: psycopg.Connection) -> None:
    connection.execute("set plan_cache_mode = force_generic_plan")
    connection.execute(
        "prepare q (halfvec) as select item_id from sightline.toy_image order by embedding <=> $1 limit 10"
    )
    plan = explain(connection, f"execute q ('{literal(EAST)}')")
    assert "Index Scan using toy_image_hnsw" in plan
    assert "$1" in plan, "the plan must be the generic one"


def test_the_alias_view_keeps_the_index(connection: psycopg.Connection) -> None:
    plan = explain(
        connection, f"select item_id from sightline.current_image order by embedding <=> '{literal(EAST)}' limit 5"
    )
    assert "Index Scan using toy_image_hnsw" in plan


def test_nearest_uses_the_index(connection: psycopg.Connection) -> None:
    """pg_stat counts index scans of the whole database, so the function's inner plan shows itself."""
    scans = "select idx_scan from pg_stat_user_indexes where indexrelname = 'toy_image_hnsw'"
    before = connection.execute(scans).fetchone()[0]
    with connection.transaction():
        connection.execute("select * from sightline.nearest('toy', %s)", (literal(EAST),))
    connection.execute("select pg_stat_force_next_flush()")
    assert connection.execute(scans).fetchone()[0] > before


@pytest.mark.parametrize("search", ["nearest('toy', %s)", "similar_to('toy', 1)"])
def test_a_join_with_the_hits_does_not_read_all_items(connection: psycopg.Connection, search: str) -> None:
    parameters = (literal(EAST),) if "%s" in search else ()
    plan = explain(
        connection,
        f"select n.item_id, i.metadata from sightline.{search} n join sightline.item i on i.item_id = n.item_id",
        *parameters,
    )
    assert "Seq Scan on item" not in plan


def test_nearest_agrees_with_exact_search(connection: psycopg.Connection) -> None:
    found = total = 0
    for query in around(EAST, 20, 0.25, 9):
        near = connection.execute("select item_id from sightline.nearest('toy', %s, 10)", (literal(query),)).fetchall()
        exact = connection.execute(
            "select item_id from sightline.toy_image order by (embedding <=> %s) + 0 limit 10", (literal(query),)
        ).fetchall()
        found += len(set(near) & set(exact))
        total += 10
    assert found / total >= 0.95


def test_a_filter_far_from_the_query_still_gets_k_rows(
    connection: psycopg.Connection, points: dict[str, list[int]]
) -> None:
    rows = connection.execute(
        "select item_id, status from sightline.nearest('toy', %s, 10, \"where\" => %s)",
        (literal(EAST), '{"kind": "rare"}'),
    ).fetchall()
    assert len(rows) == 10
    assert {status for _, status in rows} == {"complete"}
    assert {item for item, _ in rows} <= set(points["rare"])
    exact = connection.execute(
        "select item_id from sightline.toy_image where metadata->>'kind' = 'rare' order by (embedding <=> %s) + 0 limit 10",
        (literal(EAST),),
    ).fetchall()
    assert {item for item, _ in rows} == {item for (item,) in exact}


def test_the_graph_alone_would_lose_them(connection: psycopg.Connection) -> None:
    """Why nearest() has its exact fallback: the same filter on the bare graph returns fewer rows than asked for."""
    with connection.transaction():
        connection.execute(
            "set local enable_sort = off; set local enable_seqscan = off; set local enable_bitmapscan = off"
        )
        rows = connection.execute(
            f"select item_id from sightline.toy_image where metadata->>'kind' = 'rare' order by embedding <=> '{literal(EAST)}' limit 10"
        ).fetchall()
    assert len(rows) < 10


def test_status_says_when_fewer_rows_exist(connection: psycopg.Connection) -> None:
    rows = connection.execute(
        "select status from sightline.nearest('toy', %s, 300, \"where\" => %s)", (literal(EAST), '{"kind": "rare"}')
    ).fetchall()
    assert len(rows) == 200
    assert {status for (status,) in rows} == {"fewer_exist"}


def test_no_row_raises_a_notice(connection: psycopg.Connection) -> None:
    notices: list[str] = []
    connection.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    assert connection.execute(
        "select * from sightline.nearest('toy', %s, 3, \"where\" => %s)", (literal(EAST), '{"kind": "none"}')
    ).fetchall() == []  # fmt: skip
    assert notices == ['space "toy" has no image vector that passes the filter']


def test_texts_of_the_space_do_not_crowd_out_images(
    connection: psycopg.Connection, points: dict[str, list[int]]
) -> None:
    rows = connection.execute("select item_id from sightline.nearest('toy', %s, 10)", (literal(EAST),)).fetchall()
    assert len(rows) == 10
    assert not {item for (item,) in rows} & set(points["text"])
    texts = connection.execute(
        "select item_id from sightline.nearest('toy', %s, 10, modality => 'text')", (literal(EAST),)
    )
    assert {item for (item,) in texts.fetchall()} <= set(points["text"])


def test_k_above_the_candidate_list_is_served(connection: psycopg.Connection) -> None:
    assert (
        len(connection.execute("select from sightline.nearest('toy', %s, 1500)", (literal(EAST),)).fetchall()) == 1500
    )


def test_the_callers_settings_are_left_alone(connection: psycopg.Connection) -> None:
    with connection.transaction():
        connection.execute("set local hnsw.ef_search = 17")
        connection.execute("select * from sightline.nearest('toy', %s, 400)", (literal(EAST),))
        assert connection.execute("show hnsw.ef_search").fetchone() == ("17",)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"n": 5}, 2),
        ({"n": {"$in": [1, 2, "x"]}}, 4),
        ({"n": {"$in": []}}, 0),
        ({"n": {"$lt": 3}}, 6),
        ({"n": {"$gte": 19_700, "$lte": 19_702}}, 3),
        ({"n": {"$gt": 1}, "kind": "rare"}, 198),
        ({"note": None}, 200),
        ({"note": {"$exists": True}}, 200),
        ({"note": {"$exists": False}, "n": 7}, 1),
        ({"tag": {"$gte": "t5", "$lt": "t6"}, "n": {"$lt": 70}}, 10),
        ({"tag": {"$lt": 3}}, 0),
        ({"it's": "o'clock"}, 0),
        ({}, 1000),
    ],
)
def test_where(connection: psycopg.Connection, where: dict[str, object], expected: int) -> None:
    rows = connection.execute(
        "select from sightline.nearest('toy', %s, 1000, \"where\" => %s)", (literal(EAST), json.dumps(where))
    ).fetchall()
    assert len(rows) == expected


@pytest.mark.parametrize(
    "where", [{"n": {"$foo": 1}}, {"n": {"$in": 3}}, {"n": {}}, {"n": {"$lt": None}}, {"n": {"x": 1}}, {"$and": []}]
)
def test_a_filter_that_is_none_is_refused(client: Sightline, where: dict[str, object]) -> None:
    with pytest.raises(RequestRefused, match="where"):
        client.search(vector=list(EAST), k=5, where=where, space="toy")


def test_refusals_name_what_is_wrong(client: Sightline) -> None:
    vector = list(EAST)
    with pytest.raises(RequestRefused, match='space "toy" has 32 dimensions, the query vector has 31'):
        client.search(vector=vector[1:], space="toy")
    with pytest.raises(RequestRefused, match='no space named "nope"; spaces: toy, wide'):
        client.search(vector=vector, space="nope")
    with pytest.raises(RequestRefused, match='no collection named "nope"'):
        client.search(vector=vector, space="toy", collection="nope")
    with pytest.raises(RequestRefused, match='no modality "video"'):
        client.search(vector=vector, space="toy", modality="video")  # type: ignore[arg-type]
    with pytest.raises(RequestRefused, match="the query vector is zero"):
        client.search(vector=[0.0] * DIM, space="toy")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vector": [1.0] * DIM, "k": 0}, "k must be a whole number from 1 to 10,000, not 0"),
        ({"vector": [1.0] * DIM, "k": 2.5}, "k must be a whole number"),
        ({"vector": [1.0] * DIM, "k": 2**40}, "k must be a whole number"),
        ({"vector": [1.0] * DIM, "where": []}, "where must be a mapping"),
        ({"vector": [1.0] * DIM, "k": True}, "k must be a whole number from 1 to 10,000, not True"),
        ({"vector": [1.0] * DIM, "where": {"a": float("nan")}}, "where is not JSON: Out of range float"),
        ({"vector": [1.0] * DIM, "where": {"a": "\0"}}, "where holds a NUL character"),
        ({"vector": [1.0, float("nan")]}, "vector must hold finite numbers: number 1 is nan"),
        ({"vector": [float("inf")]}, "vector must hold finite numbers: number 0 is inf"),
        ({"vector": [[1.0]]}, "vector must be a sequence of numbers"),
        ({"text": " "}, "text must be a string and not empty"),
        ({"text": b"red"}, "text must be a string and not empty"),
        ({"image": 7}, "image must be a path or the bytes"),
        ({"image": "/no/such.png"}, "there is no file /no/such.png"),
        ({"image": "/dev/zero"}, "/dev/zero is a device"),
        ({}, "exactly one of text, image and vector, not none"),
        ({"text": "a", "vector": [1.0]}, "exactly one of text, image and vector, not text and vector"),
        ({"image": b"a", "text": "a", "compose": "sum", "threshold": 0.9}, "neither rerank, threshold nor hybrid"),
        ({"image": b"a", "text": "a", "compose": "sum", "rerank": True}, "neither rerank, threshold nor hybrid"),
        ({"vector": [1.0], "rerank": True}, "reranking takes a query in words"),
        ({"text": "a", "rerank": True, "k": 0}, "k must"),
        ({"text": "a", "rerank": True, "candidates": 5000}, "from 1 to 1,000, not 5000"),
    ],
)
def test_arguments_of_the_wrong_type_are_refused_by_name(
    client: Sightline, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        client.search(space="toy", **arguments)


def test_sql_checks_k_too(connection: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="k must lie between 1 and 10000, not 0"):
        connection.execute("select * from sightline.nearest('toy', %s, 0)", (literal(EAST),))


def test_a_vector_of_another_space_is_refused_by_name(
    connection: psycopg.Connection, points: dict[str, list[int]]
) -> None:
    insert = "insert into sightline.embedding (space_id, item_id, slot, generation, norm, modality, vec) values (%s, %s, 7, 1, 1, 'image', %s)"
    space_id = connection.execute("select space_id from sightline.space where name = 'wide'").fetchone()[0]
    with pytest.raises(psycopg.errors.CheckViolation, match="dimension_of_space_wide"):
        connection.execute(insert, (space_id, points["rare"][0], literal(EAST)))
    with pytest.raises(psycopg.errors.CheckViolation, match="no partition of relation"):
        connection.execute(insert, (99, points["rare"][0], literal(EAST)))


def test_similar_to_leaves_the_item_out(client: Sightline, points: dict[str, list[int]]) -> None:
    item = points["rare"][0]
    hits = client.similar_to(item, k=5, space="toy")
    assert item not in [hit.item_id for hit in hits]
    assert {hit.item_id for hit in hits} <= set(points["rare"])
    assert hits.status == "complete"
    assert hits[0].score == pytest.approx(1 - hits[0].distance)
    with pytest.raises(RequestRefused, match='item 999999999 has no vector in space "toy"'):
        client.similar_to(999_999_999, space="toy")


def test_collection_narrows_the_search(client: Sightline) -> None:
    hits = client.search(vector=list(EAST), space="toy", collection="points", k=3)
    assert [hit.collection for hit in hits] == ["points"] * 3
    assert client.search(vector=list(EAST), space="toy", collection="others", k=3).status == "fewer_exist"


def test_an_alias_moves_to_a_space_of_another_dimension(connection: psycopg.Connection) -> None:
    connection.execute("select sightline.alias_space('moving', 'toy')")
    connection.execute("select sightline.alias_space('moving', 'wide')")
    assert connection.execute("select vector_dims(embedding) from sightline.moving_image limit 1").fetchone() == (64,)
    assert (
        len(connection.execute("select from sightline.nearest('moving', %s, 5)", (literal(np.eye(64)[0]),)).fetchall())
        == 5
    )


def test_a_space_with_another_passport_is_refused(connection: psycopg.Connection) -> None:
    with pytest.raises(
        psycopg.errors.DuplicateObject, match=r'space "toy" exists with another passport .*dimension: 32 there, 8 given'
    ):
        connection.execute("select sightline.create_space('toy', 'points', 8)")


def test_index_status_and_rebuild(client: Sightline, connection: psycopg.Connection) -> None:
    image, text = index_status(client.database, "toy")
    assert (image.index, image.state, image.rows, text.rows) == ("toy_image_hnsw", "ready", N, 500)
    assert image.index_bytes is not None
    assert image.index_bytes > 1_000_000
    assert index_space(client.database, "toy") == []
    connection.execute("update pg_index set indisvalid = false where indexrelid = 'sightline.toy_text_hnsw'::regclass")
    assert index_status(client.database, "toy")[1].state == "invalid"
    assert index_space(client.database, "toy") == ["toy_text_hnsw"]
    with ThreadPoolExecutor(1) as thread:
        building = thread.submit(index_space, client.database, "toy", rebuild=True)
        seen = [
            status.progress
            for looked in iter(lambda: [] if building.done() else index_status(client.database, "toy"), [])
            for status in looked
            if status.progress is not None
        ]
    assert building.result() == ["toy_image_hnsw", "toy_text_hnsw"]
    assert any(0 < share < 1 for share in seen)
    assert all(0 <= share <= 1 for share in seen)
    assert [status.state for status in index_status(client.database, "toy")] == ["ready", "ready"]


def test_equality_is_estimated_by_what_passes_and_contains_no_more_than_it_says(connection: psycopg.Connection) -> None:
    """Two conditions for one were taken for independent: a filter that 14 % pass kept the planner off the graph."""
    where = connection.execute('select sightline.where_sql(\'{"tag": "t3"}\')').fetchone()[0]
    plan = explain(
        connection,
        f"select item_id from sightline.toy_image where {where} order by embedding <=> '{literal(EAST)}' limit 10",
    )
    assert "Index Scan using toy_image_hnsw" in plan
    for value, equal, others in (
        ("5", ["5", "5.0"], ['"5"', "[5]", '{"a": 5}', "null"]),
        ('"a"', ['"a"'], ['["a"]', '"ab"', "null"]),
        ("null", ["null"], ["0", "false", "[null]"]),
        ("true", ["true"], ['"true"', "1", "[true]"]),
        ("[1, 2]", ["[1, 2]"], ["[2, 1]", "[1, 2, 3]", "1", "[]"]),
        ("[]", ["[]"], ["[1]", "null"]),
    ):
        condition = connection.execute("select sightline.where_sql(%s)", (f'{{"x": {value}}}',)).fetchone()[0]
        rows = connection.execute(
            f"select v, {condition} from unnest(%s::jsonb[]) v, lateral (select jsonb_build_object('x', v) as metadata) m",
            (equal + others,),
        ).fetchall()
        assert [passes for _, passes in rows] == [True] * len(equal) + [False] * len(others), value
