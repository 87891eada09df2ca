"""The way of one message, in process: what is encoded, what is reused, what is tried again."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from models.encoder import Encoder
from sightline.client import Sightline
from tests.models.tiny_checkpoints import DIM
from tests.workers.conftest import png
from workers.cancellations import Cancellations
from workers.database import Pool, open_pool
from workers.decoders import Decoders
from workers.encode import EncodeWork
from workers.encoding import works_of
from workers.engine import Engine
from workers.errors import EngineUnavailable, SourceUnavailable
from workers.flights import Flights
from workers.golden import Golden
from workers.ingress import Ingress
from workers.items import PART_ITEMS, Item, parts
from workers.ledger import ClaimedChunk, Ledger
from workers.queries import query
from workers.spaces import Served
from workers.writer import Writer


@pytest.fixture(scope="module")
def pool(database_url: str, space: str) -> Iterator[Pool]:
    with open_pool(database_url, 6) as opened:
        yield opened


@pytest.fixture
def served(encoder: Encoder, connection: psycopg.Connection) -> Iterator[Served]:
    row = connection.execute("select space_id from sightline.space where name = 'tiny'").fetchone()
    assert row is not None
    works = works_of(encoder)
    engine = Engine(works, "tiny")
    yield Served(row[0], "tiny", ("image", "text"), encoder, engine, Golden(encoder, works, engine, "tiny"))
    engine.close()


class Unsteady(Ingress):
    """Reads fail as those of a network share do, as often as told."""

    failures = 0

    def read_uri(self, uri: str, name: str) -> bytes:
        if self.failures:
            self.failures -= 1
            raise SourceUnavailable(f"{name}: reading {uri} failed: Stale file handle")
        return super().read_uri(uri, name)


@pytest.fixture
def ingress(media: Path) -> Unsteady:
    return Unsteady([media], 10**6, 10**6, 1000)


@pytest.fixture
def ledger(pool: Pool) -> Ledger:
    return Ledger(pool, uuid.uuid4())


@pytest.fixture
def work(pool: Pool, ledger: Ledger, ingress: Ingress) -> Iterator[EncodeWork]:
    with closing(Decoders(2, item_seconds=60.0)) as decoders:
        yield EncodeWork(pool, ingress, Writer(pool, ledger), Flights("job"), decoders, Cancellations())


def claim(connection: psycopg.Connection, ledger: Ledger) -> list[ClaimedChunk]:
    connection.execute("update sightline.chunk set run_at = now() where state = 'queued'")
    rows = connection.execute("select chunk_id from sightline.chunk where state = 'queued'").fetchall()
    return ledger.claim([row[0] for row in rows])


def test_two_messages_with_the_same_content_encode_it_once(
    client: Sightline, connection: psycopg.Connection, ledger: Ledger, work: EncodeWork, served: Served
) -> None:
    for name in ("left", "right"):
        items: list[Any] = [{"data": png(n), "external_id": f"{n}-{copy}"} for n in range(30) for copy in range(2)]
        client.ingest(items, collection=name)
    left, right = claim(connection, ledger)
    counts: list[Counter[str]] = []
    threads = [threading.Thread(target=lambda c=chunk: counts.append(work.run(served, [c]))) for chunk in (left, right)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert counts == [Counter(done=60)] * 2
    assert served.engine.done == 30
    rows = connection.execute("select digest, count(*), count(distinct vec::text), count(distinct norm) from sightline.embedding "
                              "join sightline.item using (item_id) group by digest").fetchall()  # fmt: skip
    assert {row[1:] for row in rows} == {(4, 1, 1)}


def test_work_that_was_stored_before_is_not_done_again(
    client: Sightline, connection: psycopg.Connection, ledger: Ledger, work: EncodeWork, served: Served
) -> None:
    """A worker that died after its flush, and before it could say so."""
    client.ingest([{"text": "stored before"}], collection="before")
    chunks = claim(connection, ledger)
    work.run(served, chunks)
    connection.execute(
        "update sightline.chunk set state = 'queued', n_done = 0, finished_at = null where chunk_id = %s",
        (chunks[0].chunk_id,),
    )
    assert work.run(served, claim(connection, ledger)) == Counter(done=1)
    assert served.engine.done == 1


def test_a_read_that_fails_in_passing_is_tried_again(
    client: Sightline, connection: psycopg.Connection, ledger: Ledger, work: EncodeWork, served: Served,
    ingress: Unsteady, media: Path,
) -> None:  # fmt: skip
    folder = media / "unsteady"
    folder.mkdir()
    for n in range(5):
        (folder / f"{n}.png").write_bytes(png(700 + n))
    job = client.ingest(folder, collection="unsteady")
    ingress.failures = 2
    assert work.run(served, claim(connection, ledger)) == Counter(done=3, moved=2)
    ingress.failures = 1
    assert work.run(served, claim(connection, ledger)) == Counter(done=1, moved=1)
    ingress.failures = 1
    assert work.run(served, claim(connection, ledger)) == Counter(failed=1)
    progress = job.progress()
    assert (progress.state, progress.done, progress.failed, progress.pending) == ("done", 4, 1, 0)
    (failure,) = job.failures()
    assert (failure.error_class, failure.attempt) == ("SourceUnavailable", 3)
    assert "Stale file handle" in failure.message


def test_a_closed_engine_moves_its_items(
    client: Sightline, connection: psycopg.Connection, ledger: Ledger, work: EncodeWork, served: Served
) -> None:
    client.ingest([{"text": "nobody encodes me"}], collection="closed")
    served.engine.close()
    assert work.run(served, claim(connection, ledger)) == Counter(moved=1)
    connection.execute("delete from sightline.chunk where state = 'queued'")


def test_a_flight_that_is_given_up_fails_those_who_wait() -> None:
    flights = Flights("job")
    with flights.boarding() as first, flights.boarding() as second:
        _, mine = first.join("key")
        waiting, others = second.join("key")
        assert (mine, others) == (True, False)
        first.leave()
        with pytest.raises(EngineUnavailable):
            waiting.result(1)
        assert second.join("key")[1]  # free again


def test_an_upload_that_was_deleted_meanwhile_is_said_to_be_gone(work: EncodeWork) -> None:
    item = Item(1, 1, "image", "a.png", None, None, None, b"0" * 32, 3, False)
    work._read_uploads([item])
    assert isinstance(item.error, SourceUnavailable)
    assert str(item.error) == "a.png: its uploaded content is gone"


def test_parts_are_bounded_in_items_and_bytes() -> None:
    def item(size: int | None) -> Item:
        return Item(1, 1, "image", "a", None, None, None, b"", size, False)

    assert [len(part) for part in parts([item(10)] * (PART_ITEMS + 1))] == [PART_ITEMS, 1]
    assert [len(part) for part in parts([item(40 * 2**20)] * 3)] == [1, 1, 1]
    assert list(parts([])) == []


def test_lookups_do_not_read_the_whole_space(database_url: str, connection: psycopg.Connection, served: Served) -> None:
    """In a bulk load there are no statistics yet; the planner must not need them."""
    connection.execute("insert into sightline.collection (name) values ('large')")
    connection.execute(
        "insert into sightline.item (collection_id, modality, external_id, text, digest) "
        "select collection_id, 'text', 'x' || n, 't' || n, sha256(convert_to('t' || n, 'UTF8')) "
        "from sightline.collection, generate_series(1, 4000) n where name = 'large'"
    )
    connection.execute(
        "insert into sightline.embedding (space_id, item_id, generation, norm, modality, vec) "
        "select %s, item_id, 1, 1, 'text', array_fill(0.2, array[%s])::vector::halfvec from sightline.item "
        "join sightline.collection using (collection_id) where name = 'large'",
        (served.space_id, DIM),
    )
    rows = connection.execute(
        "select item_id, digest from sightline.item where external_id ~ '^x[0-9]{1,2}$'"
    ).fetchall()
    lookups: dict[str, dict[str, Any]] = {
        "load_items": {"space_id": served.space_id, "item_ids": [row[0] for row in rows[:64]]},
        "reusable_vectors": {
            "space_id": served.space_id, "modalities": ["text"] * 64, "digests": [row[1] for row in rows[:64]],
        },
    }  # fmt: skip
    for name, arguments in lookups.items():
        row = connection.execute("explain (analyze, buffers, format json) " + query(name), arguments).fetchone()
        assert row is not None
        plan = row[0][0]["Plan"]
        assert plan["Actual Rows"] == 64
        assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 1000, name  # 64 look-ups of a few pages each
