"""One hit per group: never a group twice, never silently fewer than k."""

from __future__ import annotations

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sightline.client import Sightline
from sightline.errors import RequestRefused
from sightline.item import Item
from sightline.space import index_space
from tests.sightline.points import DIM, around, literal, scans_of, store

EAST, NORTH = np.eye(DIM)[0], np.eye(DIM)[1]
BURST = 5000


@pytest.fixture(scope="module", autouse=True)
def shop(database_url: str, client: Sightline) -> list[int]:
    """In `shop` 5,000 photos of one product at EAST, 300 products of 10 photos round EAST and 1,000 photos of none.

    In `other` the same keys again, and texts.
    """
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("select sightline.create_space('toy', 'points', %s)", (DIM,))
        connection.execute("select sightline.create_space('line', 'points', 2)")
        connection.execute("select sightline.create_space('grid', 'points', 3)")
        connection.execute("select sightline.alias_space('current', 'toy')")
        points = np.vstack([around(EAST, BURST, 0.001, 1), around(EAST, 4000, 0.3, 2)])
        groups = ["burst"] * BURST + [f"p{n // 10}" for n in range(3000)] + [None] * 1000
        metadata = [f'{{"even": {str(n % 2 == 0).lower()}}}' for n in range(len(points))]
        ids = store(connection, "toy", "shop", "image", points, metadata, groups)
        store(
            connection, "toy", "other", "image", around(NORTH, 300, 0.3, 3), None, [f"p{n // 10}" for n in range(300)]
        )
        store(connection, "toy", "other", "text", around(EAST, 60, 0.3, 4), None, [f"t{n // 6}" for n in range(60)])
    index_space(client.database, "toy")
    return ids


def exact(
    connection: psycopg.Connection, view: str, query: np.ndarray, k: int, condition: str = "true"
) -> list[tuple[int, str | None]]:
    """The nearest item of each of the k nearest groups, from every distance; ties by item_id."""
    rows = connection.execute(
        f"select item_id, collection_id, group_key, embedding <=> %s from sightline.{view} where {condition}",
        (literal(query),),
    ).fetchall()
    best: dict[object, tuple[float, int, str | None]] = {}
    for item_id, collection_id, group_key, distance in rows:
        group = item_id if group_key is None else (collection_id, group_key)
        best[group] = min(best.get(group, (9.0, 0, None)), (distance, item_id, group_key), key=lambda row: row[:2])
    return [(item_id, group_key) for _, item_id, group_key in sorted(best.values(), key=lambda row: row[:2])[:k]]


def per_group(
    connection: psycopg.Connection, space: str, query: np.ndarray, k: int, rest: str = ""
) -> tuple[list[tuple[int, str | None]], str]:
    rows = connection.execute(
        f"select item_id, group_key, status from sightline.nearest(%s, %s, %s, per_group => true{rest})",
        (space, literal(query), k),
    ).fetchall()
    (status,) = {row[2] for row in rows}
    return [row[:2] for row in rows], status


def test_a_group_of_thousands_in_front_does_not_starve_the_answer(connection: psycopg.Connection) -> None:
    hits, status = per_group(connection, "toy", EAST, 10)
    assert (len(hits), status) == (10, "complete")
    assert hits[0][1] == "burst"
    assert hits == exact(connection, "toy_image", EAST, 10)
    plain = connection.execute("select group_key from sightline.nearest('toy', %s, 10)", (literal(EAST),)).fetchall()
    assert plain == [("burst",)] * 10, "without per_group the ten nearest are all of one group"


def test_it_agrees_with_exact_search_and_uses_the_index(connection: psycopg.Connection) -> None:
    found = 0
    queries = [*around(EAST, 10, 0.3, 7), *around(NORTH, 10, 0.3, 8)]
    for query in queries:
        call = "select * from sightline.nearest('toy', %s, 10, per_group => true)"
        assert scans_of(connection, call, literal(query)) == (1, 0), "one look into the graph is enough"
        hits, status = per_group(connection, "toy", query, 10)
        assert status == "complete"
        found += len(set(hits) & set(exact(connection, "toy_image", query, 10)))
    assert found / (10 * len(queries)) >= 0.95


@pytest.mark.parametrize(
    ("view", "rest", "condition"),
    [
        ("toy_image", ", collection => 'other'", "collection = 'other'"),
        ("toy_image", ', "where" => \'{"even": true}\'', "metadata @> '{\"even\": true}'"),
        ("toy_text", ", modality => 'text'", "true"),
    ],
)
def test_filters_collections_and_texts(connection: psycopg.Connection, view: str, rest: str, condition: str) -> None:
    for query in (EAST, NORTH):
        for space in ("toy", "current"):
            hits, status = per_group(connection, space, query, 8, rest)
            assert (hits, status) == (exact(connection, view, query, 8, condition), "complete")


def test_fewer_groups_than_k_say_so(connection: psycopg.Connection) -> None:
    hits, status = per_group(connection, "toy", EAST, 50, ", collection => 'other'")
    assert (len(hits), status) == (30, "fewer_exist")
    hits, status = per_group(connection, "toy", EAST, 50, ", modality => 'text'")
    assert (len(hits), status) == (10, "fewer_exist")


def test_a_key_is_one_group_within_its_collection_only(connection: psycopg.Connection) -> None:
    hits, _ = per_group(connection, "toy", EAST, 10_000)
    keys = [key for _, key in hits if key is not None]
    assert len(hits) == 1 + 300 + 1000 + 30
    assert len(keys) == len(set(keys)) + 30, "p0 to p29 are in both collections"


def test_a_group_beyond_every_bound_is_reported(connection: psycopg.Connection) -> None:
    """60,000 photos of one product, and another behind them: the answer may be short, but says so."""
    with connection.transaction(force_rollback=True):
        connection.execute("insert into sightline.collection (name) values ('huge')")
        connection.execute(
            "with made as (insert into sightline.item (collection_id, external_id, modality, uri, group_key) "
            "select c.collection_id, n::text, 'image', 'file:///' || n, case when n <= 60000 then 'one' else 'two' end "
            "from sightline.collection c, generate_series(1, 60001) n where c.name = 'huge' returning item_id, group_key) "
            "insert into sightline.embedding (space_id, item_id, generation, norm, modality, vec) "
            "select s.space_id, m.item_id, 1, 1, 'image', case when group_key = 'one' then '[1,0]'::halfvec else '[0,1]' end "
            "from made m, sightline.space s where s.name = 'line'"
        )
        rows = connection.execute(
            "select group_key, status from sightline.nearest('line', '[1,0]', 2, per_group => true)"
        ).fetchall()
        assert rows == [("one", "scan_limit")]


def test_similar_to_by_groups(client: Sightline, connection: psycopg.Connection, shop: list[int]) -> None:
    item = shop[0]
    (vector,) = connection.execute(
        "select embedding::text from sightline.toy_image where item_id = %s", (item,)
    ).fetchone()
    hits = client.similar_to(item, k=12, space="toy", per_group=True)
    query = np.array(vector.strip("[]").split(","), dtype=float)
    assert [(hit.item_id, hit.group_key) for hit in hits] == exact(
        connection, "toy_image", query, 12, f"item_id <> {item}"
    )
    assert hits.status == "complete"
    assert hits[0].group_key == "burst", "the others of its own group are a group"


def test_the_client_hands_over_the_groups(client: Sightline) -> None:
    hits = client.search(vector=list(EAST), k=40, space="toy", per_group=True)
    keys = [hit.group_key for hit in hits if hit.group_key is not None]
    assert keys[0] == "burst"
    assert len(keys) == len(set(keys))
    assert {hit.group_key for hit in client.search(vector=list(EAST), k=5, space="toy")} == {"burst"}
    with pytest.raises(RequestRefused, match="per_group must be true or false"):
        client.search(vector=list(EAST), space="toy", per_group=None)  # type: ignore[arg-type]


def test_calls_of_the_first_version_still_work(connection: psycopg.Connection) -> None:
    old = "select item_id, external_id, distance, score, status from sightline.{}"
    assert len(connection.execute(
        old.format("nearest('toy', %s, 3, 'shop', '{\"even\": true}', 'image')"), (literal(EAST),)
    ).fetchall()) == 3  # fmt: skip
    (item,) = connection.execute("select item_id from sightline.toy_image limit 1").fetchone()
    assert len(connection.execute(old.format("similar_to('toy', %s, 3, null, null, 'image')"), (item,)).fetchall()) == 3


def test_an_item_updated_without_a_key_keeps_it(client: Sightline, connection: psycopg.Connection) -> None:
    stored = "select group_key, text from sightline.item where external_id = 'kept'"
    for text, key, expected in (("red", "a", "a"), ("green", None, "a"), ("blue", "b", "b")):
        client.ingest([Item(text=text, external_id="kept", group_key=key)], collection="kept", space="toy")
        assert connection.execute(stored).fetchone() == (expected, text)


_POINT = st.tuples(*[st.integers(-2, 2)] * 3).filter(any)
_DIRECTION = st.sampled_from([(1, 0, 0), (2, 0, 0), (1, 1, 0), (0, 1, 0), (0, 0, -1)])
_ITEM = st.tuples(_DIRECTION, st.sampled_from([None, "a", "b", "c", "d"]), st.sampled_from(["x", "y"]))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    items=st.lists(_ITEM, min_size=1, max_size=60),
    times=st.integers(1, 8),
    query=_POINT,
    k=st.integers(1, 12),
    collection=st.booleans(),
)
def test_any_items_give_what_brute_force_gives(
    connection: psycopg.Connection, items: list[tuple[tuple[int, ...], str | None, str]], times: int, query: tuple[int, ...],
    k: int, collection: bool,
) -> None:  # fmt: skip
    """Few directions and few keys: most distances are ties, and they lie in the table in no order."""
    items = items * times
    with connection.transaction(force_rollback=True):
        connection.execute("insert into sightline.collection (name) values ('x'), ('y')")
        # The primary key would hand the rows over by item_id.
        connection.execute("set local enable_indexscan = off; set local enable_bitmapscan = off")
        connection.execute(
            "with made as (insert into sightline.item (collection_id, external_id, modality, uri, group_key) "
            "select c.collection_id, n::text, 'image', 'file:///' || n, g "
            "from unnest(%s::text[], %s::text[]) with ordinality u(g, c, n) join sightline.collection c on c.name = u.c "
            "order by n desc returning item_id, external_id) "
            "insert into sightline.embedding (space_id, item_id, generation, norm, modality, vec) "
            "select s.space_id, m.item_id, 1, 1, 'image', (%s::text[])[m.external_id::int]::halfvec "
            "from made m, sightline.space s where s.name = 'grid' order by md5(m.item_id::text)",
            ([g for _, g, _ in items], [c for _, _, c in items], [str(list(p)) for p, _, _ in items]),
        )
        condition = "collection = 'x'" if collection else "true"
        expected = exact(connection, "grid_image", np.array(query, dtype=float), k, condition)
        rows = connection.execute(
            "select item_id, group_key, status from sightline.nearest('grid', %s, %s, %s, per_group => true)",
            (str(list(query)), k, "x" if collection else None),
        ).fetchall()
        assert [row[:2] for row in rows] == expected
        assert {row[2] for row in rows} <= {"complete" if len(expected) == k else "fewer_exist"}
