"""Two submitters of one item store it once, and a slow one is not waited for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from sightline import ingest as module
from sightline.client import Sightline
from sightline.item import Item

SUBMIT = "select sightline.submit('encode', '{}', %s, %s)"


@pytest.fixture(scope="module", autouse=True)
def space(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("select sightline.create_space('toy', 'points', 3), sightline.alias_space('current', 'toy')")


@pytest.fixture
def other(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url) as opened:
        yield opened


def blocked(connection: psycopg.Connection[Any]) -> None:
    """Wait until somebody waits for a lock."""
    end = time.monotonic() + 20
    while not connection.execute(
        "select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    ).fetchall():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_items_that_another_stores_at_the_same_moment_are_stored_once_and_counted_by_both(
    client: Sightline, connection: psycopg.Connection, other: psycopg.Connection, database_url: str
) -> None:
    items = [{"text": f"text {n}", "external_id": str(n)} for n in range(100)]
    changed = [*items[:98], items[98] | {"text": "changed"}, {"text": "new", "external_id": "new"}]
    connection.execute("insert into sightline.collection (name) values ('twice')")
    (first,) = other.execute(SUBMIT, ("twice", Jsonb(items))).fetchone()

    def second() -> int:
        with psycopg.connect(database_url, autocommit=True) as third:
            return int(third.execute(SUBMIT, ("twice", Jsonb(changed))).fetchone()[0])

    with ThreadPoolExecutor(1) as threads:
        submitting = threads.submit(second)
        blocked(connection)
        other.commit()
        jobs = [first, submitting.result(20)]
    assert (
        connection.execute(
            "select submitted, pending from sightline.job_progress where job_id = any(%s)", (jobs,)
        ).fetchall()
        == [(100, 100)] * 2
    )
    assert connection.execute(
        "select count(*), count(*) filter (where generation = 2), max(text) filter (where external_id = '98') "
        "from sightline.item i join sightline.collection c using (collection_id) where c.name = 'twice'"
    ).fetchone() == (101, 1, "changed")


def test_what_a_slow_stream_gave_is_submitted_before_it_ends(
    client: Sightline, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_SECONDS", 0.05)
    count = (
        "select count(*) from sightline.item i join sightline.collection c using (collection_id) where c.name = 'slow'"
    )

    def stream() -> Iterator[Item]:
        end = time.monotonic() + 20
        for n in range(4):
            yield Item(text=f"text {n}", external_id=str(n))
            time.sleep(0.06)
        while connection.execute(count).fetchone() == (0,):
            assert time.monotonic() < end, "nothing was submitted"
            yield Item(text="again", external_id="again")
            time.sleep(0.06)

    client.ingest(stream(), collection="slow")
