"""Deleting items takes along what was made of them and content that nobody else uses, and nothing more."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import psycopg
import pytest

from sightline.client import Sightline
from sightline.deletion import Deleted
from sightline.doctor.orphans import check_orphans
from sightline.errors import RequestRefused
from sightline.item import Item
from tests.sightline.cli.conftest import *  # noqa: F403 - the fixtures cli and logging_restored
from tests.sightline.cli.conftest import Cli

COUNTS = "select (select count(*) from sightline.item), (select count(*) from sightline.embedding), (select count(*) from sightline.caption), (select count(*) from sightline.blob)"


@pytest.fixture(autouse=True)
def content(client: Sightline, connection: psycopg.Connection) -> None:
    """Two collections that share one upload, each item with a vector and a caption."""
    connection.execute("delete from sightline.item; delete from sightline.blob")
    if connection.execute("select 1 from sightline.space").fetchone() is None:
        connection.execute("select sightline.create_space('toy', 'm', 2), sightline.alias_space('current', 'toy')")
    for name in ("shop", "museum"):
        items = [
            Item(data=b"shared", external_id="both"),
            Item(data=name.encode(), external_id="own"),
            Item(text=name, external_id="words"),
        ]
        client.ingest(items, collection=name)
    connection.execute(
        "insert into sightline.embedding (space_id, item_id, generation, norm, modality, vec) "
        "select s.space_id, item_id, 1, 1, i.modality, '[1,2]' from sightline.item i, sightline.space s"
    )
    connection.execute(
        "insert into sightline.caption (item_id, recipe, model, params_digest, text) "
        "select item_id, 'r', 'm', sha256('p'), 'words' from sightline.item where modality = 'image'"
    )


def blobs(connection: psycopg.Connection) -> set[bytes]:
    known = {hashlib.sha256(content).digest(): content for content in (b"shared", b"shop", b"museum", b"lost", b"new")}
    return {known[digest] for (digest,) in connection.execute("select digest from sightline.blob")}


def test_one_item_goes_with_its_vector_caption_and_content(client: Sightline, connection: psycopg.Connection) -> None:
    deleted = client.delete(collection="shop", external_ids=["own"])
    assert deleted == Deleted(items=1, vectors=1, captions=1, blobs=1, bytes=4)
    assert connection.execute(COUNTS).fetchone() == (5, 5, 3, 2)
    assert blobs(connection) == {b"shared", b"museum"}


def test_content_stays_as_long_as_an_item_of_another_collection_uses_it(
    client: Sightline, connection: psycopg.Connection
) -> None:
    assert client.delete(collection="shop").blobs == 1
    assert blobs(connection) == {b"shared", b"museum"}
    (left,) = connection.execute("select count(*) from sightline.current_image").fetchone()
    assert left == 2
    assert client.delete(collection="museum") == Deleted(3, 3, 2, 2, 12)
    assert connection.execute(COUNTS).fetchone() == (0, 0, 0, 0)
    client.ingest([Item(data=b"shared", external_id="both")], collection="shop")  # and comes back by an ingest
    assert blobs(connection) == {b"shared"}


def test_items_by_id_and_by_age(client: Sightline, connection: psycopg.Connection) -> None:
    ids = [
        row[0]
        for row in connection.execute("select item_id from sightline.item where external_id = 'words' order by 1")
    ]
    assert client.delete(item_ids=ids[:1]).items == 1
    connection.execute("update sightline.item set updated_at = now() - interval '90 days' where external_id = 'own'")
    month = timedelta(days=30)
    assert client.count_items(collection="museum", older_than=month) == 1
    assert client.delete(collection="museum", older_than=month) == Deleted(1, 1, 1, 1, 6)
    assert client.delete(collection="museum", older_than=month) == Deleted()


def test_texts_of_captions_go_with_their_image(client: Sightline, connection: psycopg.Connection) -> None:
    connection.execute(
        "insert into sightline.item (collection_id, modality, external_id, text, parent_id) select collection_id, 'text', 'of it', 'w', "
        "item_id from sightline.item where external_id = 'own'"
    )
    assert client.delete(collection="shop", external_ids=["own"]).items == 2


def test_many_items_go_in_batches_that_are_told(client: Sightline, connection: psycopg.Connection) -> None:
    client.ingest([Item(text=f"t {n}", external_id=f"t{n}") for n in range(2300)], collection="many")
    told: list[int] = []
    assert client.delete(collection="many", on_progress=told.append).items == 2300
    assert told == [1000, 1000, 300]


def test_queued_work_of_deleted_items_is_skipped_not_lost(client: Sightline, connection: psycopg.Connection) -> None:
    job = client.ingest([Item(text="t", external_id="gone")], collection="queued")
    client.delete(collection="queued")
    assert job.progress().pending == 1  # a worker that comes to it counts it as skipped


def test_what_to_delete_must_be_said(client: Sightline, connection: psycopg.Connection) -> None:
    for wrong in ({}, {"external_ids": ["own"]}, {"collection": "nope"}, {"older_than": timedelta(0)}):
        with pytest.raises(RequestRefused):
            client.delete(**wrong)
    assert connection.execute(COUNTS).fetchone() == (6, 6, 4, 3)


def test_orphans_are_found_and_deleted_once_they_are_a_day_old(
    client: Sightline, connection: psycopg.Connection
) -> None:
    add = "insert into sightline.blob (digest, bytes, created_at) values (sha256(%s), %s, now() - %s::interval)"
    connection.execute(add, (b"lost", b"lost", "2 days"))
    connection.execute(add, (b"new", b"new", "1 hour"))  # of an ingest that goes on
    (found,) = check_orphans(connection)
    assert (found.state, found.found.split(" belong")[0]) == ("warn", "1 uploaded contents (4 bytes)")
    assert client.delete_orphans() == Deleted(blobs=1, bytes=4)
    assert blobs(connection) == {b"shared", b"shop", b"museum", b"new"}
    assert check_orphans(connection)[0].state == "ok"


def test_only_the_owner_deletes(connection: psycopg.Connection) -> None:
    for role in ("sightline_reader", "sightline_producer", "sightline_worker"):
        for name in ("delete_items", "remove_blobs"):
            may = "select has_function_privilege(%s, p.oid, 'execute') from pg_proc p where p.proname = %s"
            assert connection.execute(may, (role, name)).fetchone() == (False,), (role, name)


def test_the_command_counts_before_it_deletes_a_collection(
    cli: Cli, database_url: str, redis_url: str, connection: psycopg.Connection
) -> None:
    servers = {"database_url": database_url, "redis_url": redis_url}
    ended = cli("delete", "--collection", "shop", **servers)
    assert ended.code == 4
    assert "that would delete 3 items of collection shop; --yes does" in ended.err
    assert connection.execute(COUNTS).fetchone() == (6, 6, 4, 3)
    one = cli("delete", "--collection", "shop", "--external-id", "words", **servers)
    assert (one.code, one.out) == (0, "deleted 1 items, 1 vectors, 0 captions, 0 uploaded contents (0 bytes)\n")
    rest = cli("delete", "--collection", "shop", "--yes", "--json", **servers)
    assert rest.data == {"items": 2, "vectors": 2, "captions": 2, "blobs": 1, "bytes": 4}
    assert cli("delete", "--orphans", "--json", **servers).data["blobs"] == 0
