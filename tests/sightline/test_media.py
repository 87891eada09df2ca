"""The media store: content beside the database, under its sha256."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from structlog.testing import capture_logs

from sightline.client import Sightline
from sightline.errors import ConfigurationError, ServiceMissing
from sightline.media import MediaStore
from sightline.settings import Settings

CONTENT = b"content of an image"
DIGEST = hashlib.sha256(CONTENT).digest()


@pytest.fixture
def store(tmp_path: Path) -> MediaStore:
    return MediaStore(f"file://{tmp_path}/media/")


def stored(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_content_lies_under_its_digest_and_comes_back(store: MediaStore, tmp_path: Path) -> None:
    assert store.get(DIGEST, 100) is None
    store.put(DIGEST, CONTENT)
    store.put(DIGEST, CONTENT)
    assert stored(tmp_path / "media") == [f"{DIGEST.hex()[:2]}/{DIGEST.hex()}"]
    assert store.get(DIGEST, 100) == CONTENT
    assert store.get(DIGEST, len(CONTENT) - 1) is None  # cut off, it is another content
    assert store.delete(DIGEST)
    assert not store.delete(DIGEST)
    assert store.get(DIGEST, 100) is None


def test_content_that_was_changed_or_torn_is_not_given_out_and_is_stored_again(
    store: MediaStore, tmp_path: Path
) -> None:
    store.put(DIGEST, CONTENT)
    file = tmp_path / "media" / DIGEST.hex()[:2] / DIGEST.hex()
    file.write_bytes(CONTENT[:-1] + b"?")
    assert store.get(DIGEST, 100) is None
    file.write_bytes(CONTENT[:5])
    store.put(DIGEST, CONTENT)
    assert store.get(DIGEST, 100) == CONTENT


def test_a_store_in_memory_works_alike() -> None:
    store = MediaStore("memory://media-test/here")
    store.put(DIGEST, CONTENT)
    assert store.get(DIGEST, 100) == CONTENT
    assert store.delete(DIGEST)


@pytest.mark.parametrize(
    ("url", "words"), [("media", "no URL"), ("simplecache::s3://b/x", "no URL"), ("nope://b/x", "nope")]
)
def test_a_url_that_cannot_be_is_named(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=f"SIGHTLINE_MEDIA_URL: .*{words}"):
        MediaStore(url)


def test_a_store_whose_library_is_missing_says_what_to_install() -> None:
    pytest.importorskip("fsspec")
    with pytest.raises(ConfigurationError, match=r"pip install 'sightline\[abfs\]'"):
        MediaStore("abfs://box@account.dfs.core.windows.net/media")


def test_a_store_that_cannot_be_written_stops_the_ingest(client: Sightline, toy: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        Sightline(client.database_url, settings=_settings(f"file://{tmp_path}/file")) as sl,
        pytest.raises(ServiceMissing, match=r"media store .* took no content"),
    ):
        sl.ingest([CONTENT], collection="unwritable", space=toy)


@pytest.fixture
def toy(connection: psycopg.Connection) -> Iterator[str]:
    connection.execute(
        "select sightline.create_space('toy', 'test/model', 4) where not exists (select from sightline.space)"
    )
    return "toy"


def test_uploads_go_to_the_store_and_not_into_the_database(
    client: Sightline, connection: psycopg.Connection, toy: str, tmp_path: Path
) -> None:
    with Sightline(client.database_url, settings=_settings(f"file://{tmp_path}/media")) as sl:
        job = sl.ingest([CONTENT, b"other"], collection="media", space=toy)
        assert job.progress().pending == 2
        rows = connection.execute("select digest, bytes, size from sightline.blob order by size desc").fetchall()
        assert rows == [(DIGEST, None, len(CONTENT)), (hashlib.sha256(b"other").digest(), None, 5)]
        assert len(stored(tmp_path / "media")) == 2
        item = connection.execute("select item_id from sightline.item where digest = %s", (DIGEST,)).fetchone()
        assert item is not None
        assert sl.image_bytes(item[0]) == CONTENT
        # What was lost there is stored again by the next ingest of it.
        MediaStore(f"file://{tmp_path}/media").delete(DIGEST)
        sl.ingest([CONTENT], collection="media", space=toy)
        assert sl.image_bytes(item[0]) == CONTENT
    # And who has no store puts it into the database.
    client.ingest([CONTENT], collection="media", space=toy)
    row = connection.execute("select bytes from sightline.blob where digest = %s", (DIGEST,)).fetchone()
    assert row == (CONTENT,)


def test_content_that_nobody_uses_any_more_goes_from_the_store_too(
    client: Sightline, connection: psycopg.Connection, toy: str, tmp_path: Path
) -> None:
    folder = tmp_path / "media"
    with Sightline(client.database_url, settings=_settings(f"file://{folder}")) as sl:
        sl.ingest([b"one of its own", b"of two"], collection="mine", space=toy)
        sl.ingest([b"of two"], collection="yours", space=toy)
        assert sl.delete(collection="mine").blobs == 1
        assert stored(folder) == [f"{_hex(b'of two')[:2]}/{_hex(b'of two')}"]
        connection.execute("delete from sightline.item where blob_digest = sha256('of two')")
        connection.execute("update sightline.blob set created_at = now() - interval '2 days' where bytes is null")
        assert sl.delete_orphans().blobs >= 1
        assert stored(folder) == []


def test_content_that_lies_in_both_places_goes_from_both(
    client: Sightline, connection: psycopg.Connection, toy: str, tmp_path: Path
) -> None:
    folder = tmp_path / "media"
    with Sightline(client.database_url, settings=_settings(f"file://{folder}")) as sl:
        for name, uploads in (("here first", (client, sl)), ("there first", (sl, client))):
            content = name.encode()
            for one in uploads:
                one.ingest([content], collection=name, space=toy)
            row = connection.execute("select bytes, size from sightline.blob where digest = sha256(%s)", (content,))
            assert row.fetchone() == (content, len(content))
            assert len(stored(folder)) == 1
            deleted = sl.delete(collection=name)
            assert (deleted.blobs, deleted.bytes) == (1, len(content))
            assert stored(folder) == []


def test_what_a_deletion_without_the_store_leaves_there_is_said(client: Sightline, toy: str, tmp_path: Path) -> None:
    with Sightline(client.database_url, settings=_settings(f"file://{tmp_path}/media")) as sl:
        sl.ingest([b"left behind"], collection="left", space=toy)
    with capture_logs() as logs:
        assert client.delete(collection="left").blobs == 1
    assert [(line["event"], line["contents"]) for line in logs] == [("media_left", 1)]


def _hex(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _settings(url: str) -> Settings:
    return Settings(media_url=url)
