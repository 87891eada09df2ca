"""Caption jobs through real workers that die, are cancelled, or have no captions to write."""

from __future__ import annotations

import psycopg
import pytest

from sightline.client import Sightline
from sightline.item import Item
from tests.workers.conftest import png
from tests.workers.processes import Workers, until

IMAGES = 96


@pytest.fixture(scope="module")
def stored(space: str, start_worker: Workers, client: Sightline) -> str:
    encoder = start_worker("--queues", "encode")
    items = [Item(data=png(seed), external_id=f"{seed:03d}") for seed in range(IMAGES)]
    client.ingest(items, collection="noise").wait(timeout=60)
    assert encoder.events("caption_tool_ready") == []  # who does not caption loads nothing for it
    encoder.terminate()
    return "noise"


def count(connection: psycopg.Connection, where: str = "true") -> int:
    row = connection.execute(f"select count(*) from sightline.captions where {where}").fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.usefixtures("ledger_adds_up")
def test_a_killed_workers_captions_are_written_elsewhere_once(
    stored: str, start_worker: Workers, client: Sightline, connection: psycopg.Connection
) -> None:
    first = start_worker("--queues", "caption")
    job = client.caption(stored, recipe="guided")
    until(lambda: count(connection) > 0, 60, pause=0.01)
    first.kill()
    seen = count(connection)
    start_worker("--queues", "caption,encode")
    ended = job.wait(timeout=90)
    assert (ended.submitted, ended.done, ended.failed) == (IMAGES, IMAGES, 0)
    assert seen > 0
    assert count(connection) == IMAGES
    assert count(connection, "alignment is null or match is not null") == 0  # no matcher in a space of another model
    assert connection.execute("select count(distinct item_id) from sightline.caption").fetchone() == (IMAGES,)


@pytest.mark.usefixtures("ledger_adds_up")
def test_the_same_job_again_leaves_the_same_rows(
    stored: str, client: Sightline, connection: psycopg.Connection
) -> None:
    """At least once is once: a sampled recipe is drawn by its seed, and rows are kept by their key."""
    ids = [
        row[0] for row in connection.execute("select item_id from sightline.item order by item_id limit 8").fetchall()
    ]
    read = "select caption_id, text from sightline.caption where recipe = 'best-of-n' and (params->>'n')::int = 3 order by 1"
    found = []
    for _ in range(2):
        assert client.caption(items=ids, recipe="best-of-n", params={"n": 3}).wait(timeout=60).done == 8
        found.append(connection.execute(read).fetchall())
    assert found[0] == found[1]
    assert len(found[0]) == 8


def test_a_cancelled_job_writes_no_more(stored: str, client: Sightline, connection: psycopg.Connection) -> None:
    job = client.caption(stored, recipe="best-of-n", params={"n": 32})
    until(lambda: job.progress().started_at is not None or job.progress().done > 0, 30)
    job.cancel()
    until(lambda: job.progress().finished, 60)
    ended = job.progress()
    assert ended.done + ended.cancelled + ended.failed + ended.skipped == IMAGES
    assert count(connection, f"job_id = {job.job_id}") == ended.done
