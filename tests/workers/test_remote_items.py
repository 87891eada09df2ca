"""Items that lie elsewhere, through a real worker: links, and uploads in a media store."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from sightline.client import Sightline
from sightline.item import Item
from sightline.media import MediaStore
from sightline.settings import Settings
from tests.workers.conftest import png
from tests.workers.processes import Workers
from tests.workers.web_server import WebServer, answer, redirect, serving


@pytest.fixture(scope="module")
def server() -> Iterator[WebServer]:
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"file://{tmp_path_factory.mktemp('store')}"


@pytest.fixture(scope="module", autouse=True)
def worker(space: str, start_worker: Workers, server: WebServer, store: str) -> None:
    allowed = json.dumps([f"127.0.0.1:{server.port}"])
    start_worker(allowed_hosts=allowed, media_url=store, fetch_seconds=4, fetch_idle_seconds=4)


def states(connection: psycopg.Connection, collection: str) -> dict[str, tuple[str, str]]:
    rows = connection.execute(
        "select external_id, reason, split_part(detail, ':', 1) from sightline.missing('current') where collection = %s",
        (collection,),
    ).fetchall()
    return {name: (reason, detail) for name, reason, detail in rows}


def test_links_are_fetched_and_each_bad_one_has_its_reason(
    client: Sightline, connection: psycopg.Connection, server: WebServer
) -> None:
    links = {
        "good": server.way("/good.png", answer(png(1))),
        "moved": server.way("/moved", redirect("/good.png")),
        "gone": server.way("/gone.png", answer(b"", "410 Gone")),
        "expired": server.way("/signed.png", answer(b"", "403 Forbidden"))
        + "?X-Amz-Date=20200102T030405Z&X-Amz-Expires=60&X-Amz-Signature=secret",
        "inside": server.way("/inside", redirect("http://169.254.169.254/latest/meta-data/")),
        "page": server.way("/page", answer(b"<!doctype html><html>not found</html>")),
        "pdf": server.way("/pdf", answer(b"%PDF-1.7 ...")),
    }
    items = [Item(uri=uri, external_id=name) for name, uri in links.items()]
    ended = client.ingest(items, collection="links").wait(timeout=30)
    assert (ended.state, ended.done, ended.failed) == ("done", 2, 5)
    assert states(connection, "links") == {
        "gone": ("gone", "NotFound"),
        "expired": ("expired", "LinkExpired"),
        "inside": ("failed", "ForbiddenAddress"),
        "page": ("failed", "NotAnImage"),
        "pdf": ("failed", "NotAnImage"),
    }
    assert not any("secret" in failure.message for failure in client.job(ended.job_id).failures())
    # An expired link is not tried again until there is a new one; what is gone may be back.
    server.way("/gone.png", answer(png(2)))
    tried = {each.reason: each.job_id for each in client.reconcile(collection="links")}
    assert tried["expired"] is None
    assert tried["gone"] is not None
    assert client.job(tried["gone"]).wait(timeout=30).done == 1
    assert set(states(connection, "links")) == {"expired", "inside", "page", "pdf"}


def test_another_tag_fetches_a_link_again_and_the_same_does_not(
    client: Sightline, connection: psycopg.Connection, server: WebServer
) -> None:
    uri = server.way("/tagged.png", answer(png(3)))

    def ingest(tag: str) -> tuple[int, int]:
        progress = client.ingest([Item(uri=uri, source_tag=tag)], collection="tagged").wait(timeout=30)
        return progress.done, progress.unchanged

    def generation() -> tuple[int, bytes]:
        row = connection.execute(
            "select i.generation, i.digest from sightline.item i join sightline.embedding e using (item_id, generation) "
            "where i.external_id = %s",
            (uri,),
        ).fetchone()
        assert row is not None
        return row

    assert ingest('"1"') == (1, 0)
    first = generation()
    server.way("/tagged.png", answer(png(4)))
    server.asked.clear()
    assert ingest('"1"') == (0, 1)
    assert server.asked == []
    assert ingest('"2"') == (1, 0)
    second = generation()
    assert (first[0], second[0]) == (1, 2)
    assert first[1] != second[1]


def test_a_source_that_drips_costs_only_itself(client: Sightline, server: WebServer) -> None:
    """What came with it is done as soon as its time is over; it is tried again later."""
    drip = server.way("/drip", server.drip(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b"x", 0.2))
    job = client.ingest([Item(uri=drip, external_id="drip"), Item(data=png(5), external_id="fine")], collection="slow")
    end = time.monotonic() + 30
    while job.progress().done < 1:
        assert time.monotonic() < end
        time.sleep(0.1)
    job.cancel()


def test_uploads_in_a_media_store_are_read_from_there(
    client: Sightline, connection: psycopg.Connection, store: str, settings: Settings
) -> None:
    with Sightline(client.database_url, settings=settings.model_copy(update={"media_url": store})) as sl:
        job = sl.ingest([Item(data=png(6), external_id="kept")], collection="media")
        assert job.wait(timeout=30).done == 1
    assert connection.execute(
        "select b.bytes is null, length(i.digest) from sightline.item i join sightline.blob b on b.digest = i.blob_digest "
        "where i.external_id = 'kept'"
    ).fetchone() == (True, 32)
    assert len(list(Path(store.removeprefix("file://")).rglob("*"))) == 2  # a folder and a file


def test_an_upload_that_is_gone_from_the_media_store_is_a_reason(
    client: Sightline, connection: psycopg.Connection, store: str, settings: Settings
) -> None:
    content = png(7)
    with Sightline(client.database_url, settings=settings.model_copy(update={"media_url": store})) as sl:
        sl.pause(queue="encode")
        job = sl.ingest([Item(data=content, external_id="lost")], collection="lost")
        row = connection.execute("select digest from sightline.item where external_id = 'lost'").fetchone()
        assert row is not None
        assert MediaStore(store).delete(row[0])
        sl.resume(queue="encode")
        assert job.wait(timeout=30).failed == 1
    assert states(connection, "lost") == {"lost": ("gone", "NotFound")}
