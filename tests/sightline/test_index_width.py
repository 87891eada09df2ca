"""How wide the index is read is for the caller, its role and its database to say: `hnsw.ef_search`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import numpy as np
import psycopg
import pytest
from psycopg import sql

from sightline.client import Sightline
from sightline.space import index_space
from tests.pgbouncer import pgbouncer
from tests.sightline.points import literal, store, unit

DIM, ROWS, QUERIES, K = 256, 5000, 20, 10


@pytest.fixture(scope="module")
def hard(database_url: str, client: Sightline) -> tuple[list[str], list[set[int]]]:
    """Points in every direction, where a graph finds its way badly; queries and their true neighbours."""
    points, asked = np.split(unit(np.random.default_rng(6).normal(size=(ROWS + QUERIES, DIM))), [ROWS])
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("select sightline.create_space('hard', 'points', %s)", (DIM,))
        ids = np.array(store(connection, "hard", "points", "image", points))
    assert index_space(client.database, "hard") == ["hard_image_hnsw", "hard_text_hnsw"]
    nearest = np.argsort(-asked @ points.T, axis=1)[:, :K]
    return [literal(one) for one in asked], [set(row) for row in ids[nearest].tolist()]


@pytest.fixture
def login(connection: psycopg.Connection, database_url: str) -> Iterator[str]:
    """A role that may search, and nothing more."""
    connection.execute("create role wide_reader login in role sightline_reader")
    yield "wide_reader"
    connection.execute("drop owned by wide_reader")
    connection.execute("drop role wide_reader")


def recall(connection: psycopg.Connection, hard: tuple[list[str], list[set[int]]]) -> float:
    found = 0
    for query, true in zip(*hard, strict=True):
        rows = connection.execute("select item_id from sightline.nearest('hard', %s, %s)", (query, K)).fetchall()
        assert len(rows) == K
        found += len(true & {item_id for (item_id,) in rows})
    return found / (K * QUERIES)


def test_a_role_that_reads_more_of_the_index_finds_more(
    hard: tuple[list[str], list[set[int]]], login: str, connection: psycopg.Connection, database_url: str
) -> None:
    before = recall(connection, hard)
    assert before < 0.9, "too easy to tell anything"
    connection.execute(sql.SQL("alter role {} set hnsw.ef_search = 800").format(sql.Identifier(login)))
    with psycopg.connect(database_url, user=login) as other:  # pgvector is not loaded there before the first search
        assert recall(other, hard) > before + 0.05
    assert recall(connection, hard) == before


def test_a_transaction_may_read_more_and_one_that_reads_less_finds_no_less(
    hard: tuple[list[str], list[set[int]]], connection: psycopg.Connection
) -> None:
    before = recall(connection, hard)
    with connection.transaction():
        connection.execute("set local hnsw.ef_search = 800")
        assert recall(connection, hard) > before + 0.05
        assert connection.execute("show hnsw.ef_search").fetchone() == ("800",)
    with connection.transaction():
        connection.execute("set local hnsw.ef_search = 10")
        assert recall(connection, hard) == before
        assert connection.execute("show hnsw.ef_search").fetchone() == ("10",)


def test_many_rows_asked_for_once_do_not_widen_the_next_search(
    hard: tuple[list[str], list[set[int]]], connection: psycopg.Connection
) -> None:
    before = recall(connection, hard)
    with connection.transaction():
        connection.execute("select from sightline.nearest('hard', %s, 400)", (hard[0][0],))
        assert recall(connection, hard) == before


def test_a_setting_that_pgvector_does_not_take_is_none(
    hard: tuple[list[str], list[set[int]]], connection: psycopg.Connection, database_url: str
) -> None:
    before = recall(connection, hard)
    for nonsense in ("wide", "5000"):
        with psycopg.connect(database_url, options=f"-c hnsw.ef_search={nonsense}") as other:
            assert recall(other, hard) == before


@pytest.mark.skipif(shutil.which("pgbouncer") is None, reason="no pgbouncer")
def test_behind_a_pooler_the_roles_setting_counts_and_that_of_a_transaction_ends_with_it(
    hard: tuple[list[str], list[set[int]]], database_url: str, connection: psycopg.Connection
) -> None:
    before = recall(connection, hard)
    with (
        pgbouncer(database_url, "transaction", default_pool_size=1) as url,
        psycopg.connect(url, prepare_threshold=None) as one,
        psycopg.connect(url, prepare_threshold=None) as other,
    ):
        with one.transaction():
            one.execute("set local hnsw.ef_search = 800")
            assert recall(one, hard) > before + 0.05
        with other.transaction():  # on the same connection of the server
            assert recall(other, hard) == before


def test_a_filter_finds_as_much_as_no_filter(
    hard: tuple[list[str], list[set[int]]], connection: psycopg.Connection
) -> None:
    """The first pass through the graph is wide enough for what passes, or what passes is sorted."""
    exact = (
        "select item_id from sightline.hard_image where (metadata->>'n')::int = 0 "
        "order by (embedding <=> %s::halfvec(256)) + 0 limit %s"
    )
    nearest = """select item_id from sightline.nearest('hard', %s, %s, "where" => '{"n": 0}')"""
    for share, least in ((50, 0.95), (10, recall(connection, hard) - 0.05)):
        connection.execute("update sightline.item set metadata = jsonb_build_object('n', item_id %% %s)", (share,))
        connection.execute("vacuum analyze sightline.item, sightline.embedding")
        found = 0
        for query in hard[0]:
            true, rows = (set(connection.execute(asked, (query, K)).fetchall()) for asked in (exact, nearest))
            assert len(rows) == K
            found += len(true & rows)
        assert found / (K * QUERIES) >= least, share
