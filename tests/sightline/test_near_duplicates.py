"""Near-duplicates: what is listed is what comparing every pair would find."""

from __future__ import annotations

import hashlib

import numpy as np
import psycopg
import pytest

from sightline.client import Sightline
from sightline.space import index_space
from tests.sightline.points import DIM, around, scans_of, store, unit

N, COPIES = 900, 100
NEAR = 0.02
Pair = tuple[int, int]


@pytest.fixture(scope="module", autouse=True)
def planted(database_url: str, client: Sightline) -> dict[str, list[int]]:
    """900 random directions in `shop`, slightly moved copies of 100 of them (of the first also in `other`) and texts."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("select sightline.create_space('toy', 'points', %s)", (DIM,))
        points = unit(np.random.default_rng(1).normal(size=(N, DIM)))
        moved = unit(points[:COPIES] + np.random.default_rng(2).normal(0, 0.02, (COPIES, DIM)))
        ids = store(connection, "toy", "shop", "image", np.vstack([points, moved]))
        others = store(connection, "toy", "other", "image", around(points[0], 150, 1e-5, 3))
        texts = store(connection, "toy", "shop", "text", points[[0, 1, 0]])
    index_space(client.database, "toy")
    return {"images": ids, "others": others, "texts": texts}


@pytest.fixture
def pairs(connection: psycopg.Connection) -> dict[Pair, float]:
    rows = connection.execute("select * from sightline.near_duplicate_pairs('toy', collection => 'shop')").fetchall()
    return {(row[0], row[2]): row[4] for row in rows}


def all_pairs(connection: psycopg.Connection, condition: str = "true") -> dict[Pair, float]:
    """Every pair within `NEAR` and one collection, from every distance."""
    return {
        (a, b): distance
        for a, b, distance in connection.execute(
            "select a.item_id, b.item_id, a.embedding <=> b.embedding from sightline.toy_image a join sightline.toy_image b "
            "on a.collection_id = b.collection_id and a.item_id < b.item_id and a.embedding <=> b.embedding <= %s "
            f"where a.collection = 'shop' and {condition}",
            (NEAR,),
        ).fetchall()
    }


def test_the_pairs_are_those_of_brute_force(connection: psycopg.Connection, pairs: dict[Pair, float]) -> None:
    """But for what the graph, which is built with chance in it, does not reach: never a wrong pair or distance."""
    expected = all_pairs(connection)
    assert pairs == pytest.approx({pair: expected[pair] for pair in pairs if pair in expected}, abs=1e-6)
    assert len(pairs) >= 0.98 * len(expected)
    assert len(expected) >= 0.9 * COPIES, "most of the planted copies lie within the distance"


def test_each_item_is_looked_up_in_the_index(connection: psycopg.Connection) -> None:
    scans, whole_reads = scans_of(
        connection, "select * from sightline.near_duplicate_pairs('toy', collection => 'shop')"
    )
    assert scans == N + COPIES
    assert whole_reads <= 1, "the items themselves may be listed by reading the table once"


def test_copies_in_other_collections_neither_pair_nor_hide_a_pair(
    pairs: dict[Pair, float], planted: dict[str, list[int]]
) -> None:
    """150 vectors of another collection lie nearer to the first image than its copy does."""
    first, copy = planted["images"][0], planted["images"][N]
    assert (first, copy) in pairs
    assert not {item for pair in pairs for item in pair} & set(planted["others"])


def test_the_view_lists_each_collection_and_modality(
    connection: psycopg.Connection, pairs: dict[Pair, float], planted: dict[str, list[int]]
) -> None:
    rows = connection.execute(
        "select space, collection, modality, item_id, duplicate_item_id from sightline.near_duplicates"
    )
    found: dict[tuple[str, ...], set[Pair]] = {}
    for *where, first, second in rows.fetchall():
        found.setdefault(tuple(where), set()).add((first, second))
    assert found.pop(("toy", "shop", "image")) == set(pairs)
    assert found.pop(("toy", "shop", "text")) == {(planted["texts"][0], planted["texts"][2])}
    others = found.pop(("toy", "other", "image"))
    assert {item for pair in others for item in pair} == set(planted["others"]), (
        "of a large cluster every item is listed"
    )
    assert all(first < second for first, second in others)
    assert not found


def test_a_condition_on_the_view_spares_the_other_collections(
    connection: psycopg.Connection, planted: dict[str, list[int]]
) -> None:
    view = "select * from sightline.near_duplicates where collection = 'other' and modality = 'image'"
    assert scans_of(connection, view)[0] == len(planted["others"])


def test_equal_content_is_listed_with_and_without_vectors(
    connection: psycopg.Connection, planted: dict[str, list[int]]
) -> None:
    """Two images far apart whose files are equal (one vector is stale or wrong), and three files without a vector."""
    digest = hashlib.sha256(b"one").digest()
    with connection.transaction(force_rollback=True):
        far = planted["images"][500:502]
        connection.execute("update sightline.item set digest = %s where item_id = any (%s)", (digest, far))
        without = [
            connection.execute(
                "insert into sightline.item (collection_id, external_id, modality, uri, digest) "
                "select collection_id, %s, 'image', 'file:///' || %s, %s from sightline.collection where name = 'shop' "
                "returning item_id",
                (name, name, hashlib.sha256(b"two").digest()),
            ).fetchone()[0]
            for name in ("u", "v", "w")
        ]
        rows = connection.execute(
            "select item_id, duplicate_item_id, external_id, duplicate_external_id, distance "
            "from sightline.near_duplicate_pairs('toy', 0, 'shop')"
        ).fetchall()
        found = {row[:2]: row for row in rows}
        assert found[tuple(far)][4] == 0
        u, v, w = without
        assert {pair for pair in found if set(pair) & set(without)} == {(u, v), (u, w), (v, w)}
        assert found[u, v][2:] == ("u", "v", 0)


def test_vectors_of_older_content_are_no_evidence(
    connection: psycopg.Connection, planted: dict[str, list[int]]
) -> None:
    first, copy = planted["images"][3], planted["images"][N + 3]
    listed = "select exists (select from sightline.near_duplicate_pairs('toy', collection => 'shop') where item_id = %s and duplicate_item_id = %s)"
    assert connection.execute(listed, (first, copy)).fetchone() == (True,)
    with connection.transaction(force_rollback=True):
        connection.execute("update sightline.item set generation = 2 where item_id = %s", (copy,))
        assert connection.execute(listed, (first, copy)).fetchone() == (False,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("'nope'", 'no space named "nope"'),
        ("'toy', 3", "max_distance must lie between 0 and 2, not 3"),
        ("'toy', null", "max_distance must lie between 0 and 2"),
        ("'toy', modality => 'video'", 'space "toy" has no modality "video"; it has: image, text'),
        ("'toy', collection => 'nope'", 'no collection named "nope"'),
    ],
)
def test_refusals_name_what_is_wrong(connection: psycopg.Connection, arguments: str, message: str) -> None:
    with pytest.raises(psycopg.Error, match=message):
        connection.execute(f"select * from sightline.near_duplicate_pairs({arguments})")
