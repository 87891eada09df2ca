"""Ingest and submit: what lands in the ledger, in whose transaction, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
import sqlalchemy
from psycopg.rows import dict_row
from sqlalchemy.orm import Session

from sightline.client import Sightline
from sightline.errors import ContractViolated, JobNotVisible, RequestRefused, ServiceMissing, UsageError
from sightline.ingest import BATCH_ITEMS
from sightline.item import Item
from sightline.settings import Settings
from tests.pgbouncer import pgbouncer


@pytest.fixture(scope="module", autouse=True)
def space(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("select sightline.create_space('toy', 'points', 4)")
        connection.execute(
            "select sightline.create_space('pictures', 'points', 4, modalities => '{image}', pool => 'big')"
        )
        connection.execute("select sightline.alias_space('current', 'toy')")


def chunks(connection: psycopg.Connection, job_id: int) -> list[list[int]]:
    rows = connection.execute("select item_ids from sightline.chunk where job_id = %s order by chunk_id", (job_id,))
    return [row[0] for row in rows.fetchall()]


def test_a_stream_becomes_chunks_of_at_most_64(client: Sightline, connection: psycopg.Connection) -> None:
    job = client.ingest((Item(text=f"text {n}", external_id=str(n)) for n in range(1500)), collection="stream")
    now = job.progress()
    assert (now.submitted, now.pending, now.failed, now.state) == (1500, 1500, 0, "queued")
    assert now.sealed_at is not None
    sizes = [len(ids) for ids in chunks(connection, job.job_id)]
    assert sum(sizes) == 1500
    assert max(sizes) == 64
    assert len({item for ids in chunks(connection, job.job_id) for item in ids}) == 1500


def test_a_stream_is_not_held_in_memory(client: Sightline) -> None:
    """After n batches went to the database, the generator has been read no further than one batch ahead."""
    read = 0
    ahead = []

    def texts():
        nonlocal read
        for n in range(3 * BATCH_ITEMS + 1):
            read += 1
            if n % BATCH_ITEMS == 0 and n:
                with client.database.transaction() as connection:
                    stored = connection.execute(
                        "select count(*) from sightline.item i join sightline.collection c using (collection_id) where c.name = 'lazy'"
                    ).fetchone()[0]
                ahead.append(read - stored)
            yield Item(text=f"lazy {n}", external_id=str(n))

    client.ingest(texts(), collection="lazy")
    assert len(ahead) == 3
    assert max(ahead) <= BATCH_ITEMS + 1


def test_content_is_stored_once_and_named_by_its_digest(client: Sightline, connection: psycopg.Connection) -> None:
    client.ingest(
        [b"same bytes", Item(data=b"same bytes", external_id="again"), Item(text="words")], collection="blobs"
    )
    digest = hashlib.sha256(b"same bytes").digest()
    assert connection.execute("select count(*) from sightline.blob where digest = %s", (digest,)).fetchone() == (1,)
    rows = connection.execute(
        "select external_id, digest from sightline.item join sightline.collection c using (collection_id) where c.name = 'blobs'"
    ).fetchall()
    assert dict(rows) == {
        f"sha256:{digest.hex()}": digest,
        "again": digest,
        f"sha256:{hashlib.sha256(b'words').hexdigest()}": hashlib.sha256(b"words").digest(),
    }


def test_a_folder_names_files_relative_to_itself(
    client: Sightline, connection: psycopg.Connection, tmp_path: Path
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x.png").write_bytes(b"x")
    (tmp_path / "y.png").write_bytes(b"y")
    (tmp_path / ".hidden").write_bytes(b"z")
    client.ingest(tmp_path, collection="folder")
    client.ingest(tmp_path / "a" / "b" / "x.png", collection="folder", root=tmp_path / "a")
    rows = connection.execute(
        "select external_id from sightline.item join sightline.collection c using (collection_id) where c.name = 'folder' order by 1"
    ).fetchall()
    assert [row[0] for row in rows] == ["a/b/x.png", "b/x.png", "y.png"]


def test_files_under_a_media_root_travel_as_uris(
    database_url: str, redis_url: str, connection: psycopg.Connection, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "näme with space.png").write_bytes(b"in")
    (tmp_path / "out.png").write_bytes(b"out")
    (tmp_path / "in" / "escape.png").symlink_to(tmp_path / "out.png")
    for file in ("in/näme with space.png", "out.png"):
        os.utime(tmp_path / file, (1e9, 1e9))  # files of this very moment get no tag
    with Sightline(database_url, redis_url, settings=Settings(media_roots=[tmp_path / "in"])) as client:
        client.ingest([tmp_path / "in", tmp_path / "out.png"], collection="roots", root=tmp_path)
    rows = connection.execute(
        "select external_id, uri, blob_digest is not null, source_tag is not null from sightline.item "
        "join sightline.collection c using (collection_id) where c.name = 'roots'"
    ).fetchall()
    assert {row[0]: row[1:] for row in rows} == {
        "in/näme with space.png": ((tmp_path / "in" / "näme with space.png").as_uri(), False, True),
        "in/escape.png": (None, True, True),  # resolved first: it lies outside, so its content is uploaded
        "out.png": (None, True, True),
    }


def test_what_cannot_be_read_is_a_failure_and_its_neighbours_go_on(client: Sightline, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "good.png").write_bytes(b"good")
    (tmp_path / os.fsdecode(b"bad-\xff.png")).write_bytes(b"odd name")
    items = [
        tmp_path,
        tmp_path / "missing.png",
        Item(text="  ", external_id="blank"),
        Item(text="nul \x00 byte", external_id="nul"),
        Item(text="lone \ud800", external_id="surrogate"),
        Item(text="a literal \\u0000 is fine", external_id="literal"),
        Item(text="x", external_id="nan", metadata={"n": float("nan")}),
        Item(text="x", external_id="object", metadata={"n": object()}),
        Item(text="x" * 100_001, external_id="long"),
        Item(data=b"", external_id="no bytes"),
        Item(text="fine", external_id="fine"),
    ]
    job = client.ingest(items, collection="zoo")
    failures = {failure.external_id: failure.error_class for failure in job.failures()}
    assert failures == {
        "pipe.png": "NotARegularFile", "empty.png": "EmptyFile", "loop.png": "NotARegularFile", str(tmp_path / "missing.png"): "NotFound",
        "blank": "EmptyText", "nul": "BadText", "surrogate": "BadText", "nan": "BadMetadata", "object": "BadMetadata",
        "long": "TextTooLong", "no bytes": "EmptyFile",
    }  # fmt: skip
    now = job.progress()
    assert (now.submitted, now.failed, now.pending) == (15, 11, 4)
    assert "there is no file" in next(f.message for f in job.failures() if f.error_class == "NotFound")


def test_a_second_ingest_counts_what_did_not_change(client: Sightline, connection: psycopg.Connection) -> None:
    first = client.ingest([Item(text=str(n), external_id=str(n)) for n in range(10)], collection="again")
    connection.execute(
        "insert into sightline.embedding (space_id, item_id, generation, norm, modality, vec) select 1, u, 1, 1, 'text', '[1,2,3,4]' "
        "from sightline.chunk c, unnest(c.item_ids) u where c.job_id = %s",
        (first.job_id,),
    )
    items = [Item(text=str(n), external_id=str(n), metadata={"seen": 2}) for n in range(9)] + [
        Item(text="new", external_id="9")
    ]
    second = client.ingest(items, collection="again").progress()
    assert (second.submitted, second.unchanged, second.skipped, second.pending) == (10, 9, 9, 1)
    rows = connection.execute(
        "select i.external_id, i.generation, i.metadata from sightline.item i join sightline.collection c using (collection_id) "
        "where c.name = 'again' and external_id in ('0', '9') order by 1"
    ).fetchall()
    assert rows == [("0", 1, {"seen": 2}), ("9", 2, {})]
    stale = connection.execute(
        "select reason from sightline.missing('toy') where external_id = '9' and collection = 'again'"
    ).fetchone()
    assert stale == ("queued",)


def test_the_last_of_equal_ids_counts_and_the_others_are_reported(
    client: Sightline, connection: psycopg.Connection
) -> None:
    job = client.ingest([Item(text="old", external_id="x"), Item(text="new", external_id="x")], collection="twice")
    now = job.progress()
    assert (now.submitted, now.skipped, now.pending) == (2, 1, 1)
    row = connection.execute(
        "select text from sightline.item join sightline.collection c using (collection_id) where c.name = 'twice'"
    )
    assert row.fetchone() == ("new",)


def test_an_ingest_that_breaks_off_keeps_what_was_given_and_says_so(client: Sightline) -> None:
    def broken():
        yield from (Item(text=f"{n}", external_id=f"{n}") for n in range(600))
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="the disk went away"):
        client.ingest(broken(), collection="broken")
    with client.database.transaction() as connection:
        row = connection.execute(
            "select submitted, sealed_at is not null, error from sightline.job_progress where collection = 'broken'"
        ).fetchone()
    assert row == (600, True, "the ingest broke off: OSError: the disk went away")


def test_two_ingests_of_the_same_files_at_once(client: Sightline, connection: psycopg.Connection) -> None:
    items = [Item(data=f"bytes {n}".encode(), external_id=f"{n}") for n in range(400)]
    errors: list[BaseException] = []

    def run(order: list[Item]) -> None:
        try:
            client.ingest(order, collection="race")
        except Exception as error:  # noqa: BLE001 - whatever it is fails the test
            errors.append(error)

    threads = [threading.Thread(target=run, args=(order,)) for order in (items, items[::-1], items[200:] + items[:200])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    count = connection.execute(
        "select count(*) from sightline.item join sightline.collection c using (collection_id) where c.name = 'race'"
    )
    assert count.fetchone() == (400,)


def test_the_callers_psycopg_transaction_decides(client: Sightline, database_url: str) -> None:
    with psycopg.connect(database_url) as mine:
        fresh = client.submit("encode", {}, collection="mine", items=[{"text": "a"}], connection=mine)
        mine.rollback()
        with pytest.raises(JobNotVisible):
            fresh.progress()
        mine.execute("create temp table order_line (id int)")
        mine.execute("insert into order_line values (1)")
        job = client.ingest([Item(text="in my transaction")], collection="mine", connection=mine)
        with pytest.raises(JobNotVisible, match="has not committed"):
            job.wait(timeout=5)
        mine.rollback()
        with pytest.raises(JobNotVisible):
            job.progress()
        job = client.ingest([Item(text="in my transaction")], collection="mine", connection=mine)
        mine.commit()
    assert job.progress().pending == 1


@pytest.mark.skipif(shutil.which("pgbouncer") is None, reason="no pgbouncer here (Debian: apt-get install pgbouncer)")
def test_a_wait_inside_the_transaction_raises_where_no_other_connection_is_left(
    client: Sightline, database_url: str
) -> None:
    """The pooler's only connection is the transaction's: to ask on another one would wait for this very transaction."""
    with (
        pgbouncer(database_url, "transaction", default_pool_size=1) as url,
        Sightline(url, settings=client.settings) as sl,
        psycopg.connect(url, prepare_threshold=None) as mine,
    ):
        for submit in (
            lambda: sl.ingest([Item(text="a")], collection="pooled", connection=mine),
            lambda: sl.submit("encode", collection="pooled", items=[{"text": "b"}], connection=mine),
        ):
            job = submit()
            with pytest.raises(JobNotVisible, match="has not committed: commit it first"):
                job.wait(timeout=5)
            mine.commit()
            assert job.progress().pending == 1


def test_the_factories_of_a_lent_connection_do_not_matter(client: Sightline, database_url: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"bytes")
    with psycopg.connect(database_url, row_factory=dict_row, cursor_factory=psycopg.RawCursor) as mine:
        for _ in range(2):
            job = client.ingest([tmp_path / "a.png", Item(text="b")], collection="dicts", connection=mine)
        whole = client.submit("encode", {}, collection="dicts", connection=mine)
        assert mine.execute("select 1 as one").fetchone() == {"one": 1}
    assert (job.progress().submitted, whole.progress().submitted) == (2, 2)


def test_arguments_of_submit_are_refused_by_name(client: Sightline) -> None:
    with pytest.raises(UsageError, match="items must be a list, not a dict"):
        client.submit("encode", {}, collection="c", items={"text": "a"})  # type: ignore[arg-type]
    with pytest.raises(ContractViolated, match="items holds a NUL character, which Postgres cannot store"):
        client.submit("encode", {}, collection="c", items=[{"text": "a\0b"}])
    for key in ("", 7):
        with pytest.raises(UsageError, match="idempotency_key must be a string and not empty"):
            client.submit("encode", {}, collection="c", items=[], idempotency_key=key)  # type: ignore[arg-type]


def test_a_whole_collection_must_be_there(client: Sightline, connection: psycopg.Connection) -> None:
    with pytest.raises(RequestRefused, match='no collection named "never-was"'):
        client.submit("encode", {}, collection="never-was")
    names = connection.execute("select name from sightline.collection where name = 'never-was'").fetchall()
    assert names == []


def test_the_callers_sqlalchemy_transaction_decides(client: Sightline, database_url: str) -> None:
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(database_url))
    with engine.connect() as mine:
        rolled_back = client.submit("encode", {}, collection="alchemy", items=[{"text": "a"}], connection=mine)
        mine.rollback()
        kept = client.submit("encode", {}, collection="alchemy", items=[{"text": "a"}], connection=mine)
        mine.commit()
    with Session(engine) as session:
        from_session = client.ingest([Item(text="b")], collection="alchemy", connection=session)
        session.commit()
    engine.dispose()
    with pytest.raises(JobNotVisible):
        rolled_back.progress()
    assert kept.progress().pending == 1
    assert from_session.progress().pending == 1
    with pytest.raises(UsageError, match="must be of psycopg or SQLAlchemy, not str"):
        client.submit("encode", {}, items=[1], connection="no")  # type: ignore[arg-type]


def test_submit_from_sql_alone(connection: psycopg.Connection) -> None:
    job_id = connection.execute(
        """select sightline.submit('encode', '{"space": "toy"}', 'sql', '[{"text": "red"}, {"text": "blue", "external_id": "b"}]')"""
    ).fetchone()[0]
    assert len(chunks(connection, job_id)[0]) == 2
    everything = connection.execute("select sightline.submit('encode', '{}', 'sql')").fetchone()[0]
    assert sorted(chunks(connection, everything)[0]) == sorted(chunks(connection, job_id)[0])
    known = connection.execute(
        "select sightline.submit('encode', '{}', items => to_jsonb(%s::bigint[]))", (chunks(connection, job_id)[0],)
    )
    assert chunks(connection, known.fetchone()[0]) == [sorted(chunks(connection, job_id)[0])]


@pytest.mark.parametrize(
    ("items", "problem"),
    [
        ([{"text": "ok"}, {"uri": "http://me:pw@host/x.png"}], "item 1 .*the uri holds a user or password"),
        ([{"uri": "ftp://host/x"}], "a uri must begin with file:///, http://, https://, s3://, gs:// or abfs://"),
        ([{"text": "a", "external_id": "sightline:a"}], "external_id must not begin with sightline:"),
        ([{"text": "a", "uri": "file:///x"}], "exactly one of text, uri, digest"),
        ([{"external_id": "x"}], "exactly one of text, uri, digest"),
        ([{"txt": "a"}], "unknown field txt"),
        ([{"digest": "ab"}], "64 hexadecimal digits"),
        ([{"digest": "0" * 64}], "no blob of this digest"),
        ([{"text": "a", "metadata": 3}], "metadata must be an object"),
        ([{"text": "a", "external_id": ""}], "external_id must be a string and not empty"),
        ([{"text": "a", "external_id": "x" * 2001}], "external_id is longer than 2000 bytes"),
        ([{"text": "a", "group_key": 3}], "group_key must be a string and not empty"),
        ([{"text": "a", "group_key": ""}], "group_key must be a string and not empty"),
        ([{"text": "a", "group_key": "x" * 2001}], "group_key is longer than 2000 bytes"),
        ([{"text": " \n"}], "the text is empty"),
        ([999_999_999], "there is no item of this id"),
        ([1.5], "an item id is a whole number"),
        (["a"], "an item is the id of a stored one, or an object"),
        ({"text": "a"}, "items must be a JSON array"),
    ],
)
def test_a_bad_item_is_refused_by_name_and_nothing_is_written(
    client: Sightline, connection: psycopg.Connection, items: object, problem: str
) -> None:
    before = connection.execute(
        "select (select count(*) from sightline.item), (select count(*) from sightline.job)"
    ).fetchone()
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=problem):
        connection.execute("select sightline.submit('encode', '{}', 'refused', %s)", (json.dumps(items),))
    assert (
        connection.execute(
            "select (select count(*) from sightline.item), (select count(*) from sightline.job)"
        ).fetchone()
        == before
    )


def test_other_refusals_name_their_reason(client: Sightline) -> None:
    with pytest.raises(RequestRefused, match='no space named "nope"'):
        client.ingest([Item(text="a")], collection="c", space="nope")
    with pytest.raises(RequestRefused, match='payload of encode: unknown field "sapce"; fields: space, version'):
        client.submit("encode", {"sapce": "toy"}, collection="c", items=[])
    with pytest.raises(RequestRefused, match=r'unknown kind "paint"; served: .*encode'):
        client.submit("paint", {}, collection="c", items=[])
    with pytest.raises(RequestRefused, match='lane "fast" is none of'):
        client.submit("encode", {}, collection="c", items=[], lane="fast")  # type: ignore[arg-type]
    with pytest.raises(RequestRefused, match="a new item needs a collection"):
        client.submit("encode", {}, items=[{"text": "a"}])
    with pytest.raises(RequestRefused, match="needs items, a collection or both"):
        client.submit("encode", {})
    with pytest.raises(RequestRefused, match="the space takes no text"):
        client.submit("encode", {"space": "pictures"}, collection="c", items=[{"text": "a"}])
    with pytest.raises(UsageError, match="exactly one of path, data, text and uri, not path and text"):
        Item(path="x", text="y")
    with pytest.raises(UsageError, match="unknown field of an item: name"):
        client.ingest([{"text": "a", "name": "b"}], collection="c")
    with pytest.raises(UsageError, match="cannot ingest a int"):
        client.ingest([3], collection="c")  # type: ignore[list-item]
    with pytest.raises(UsageError, match="cannot ingest a NoneType"):
        client.ingest(None, collection="c")  # type: ignore[arg-type]


def test_items_of_wrong_types_are_failures_of_their_own(client: Sightline) -> None:
    items = [
        Item(text="a", external_id=5), Item(text="a", external_id=""), Item(text="a", external_id="x" * 2001),
        Item(data="abc", external_id="data"), Item(path=5), Item(path=""), Item(path="x" * 5000), Item(path="nul \x00"),
        Item(text=b"bytes", external_id="text"), Item(text="a", external_id="meta", metadata=[1]),
        Item(text="a", external_id="group", group_key=3), Item(text="a", external_id="group ''", group_key=""),
        Item(text="a", external_id="group x", group_key="x" * 2001), Item(text="good", external_id="good"),
    ]  # fmt: skip
    job = client.ingest(items, collection="types")
    assert [(f.external_id[:9], f.error_class) for f in job.failures()] == [
        ("5", "BadExternalId"), ("(empty)", "BadExternalId"), ("xxxxxxxxx", "BadExternalId"), ("data", "BadItem"),
        ("5", "BadItem"), ("(empty)", "BadItem"), ("xxxxxxxxx", "BadExternalId"), ("nul \\x00", "Unreadable"),
        ("text", "BadText"), ("meta", "BadMetadata"), ("group", "BadItem"),
        ("group ''", "BadItem"), ("group x", "BadItem"),
    ]  # fmt: skip
    assert job.progress().pending == 1


def test_a_folder_may_be_given_by_a_link_and_links_inside_are_named(client: Sightline, tmp_path: Path) -> None:
    (tmp_path / "real" / "inner").mkdir(parents=True)
    (tmp_path / "real" / "a.png").write_bytes(b"a")
    (tmp_path / "real" / "back").symlink_to(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    job = client.ingest(tmp_path / "link", collection="links")
    assert (job.progress().submitted, job.progress().pending) == (2, 1)
    assert [(f.external_id, f.error_class) for f in job.failures()] == [("back", "NotARegularFile")]


def test_a_job_whose_submitter_died_is_sealed_and_a_slow_one_opens_it_again(
    client: Sightline, connection: psycopg.Connection
) -> None:
    job_id = connection.execute("select (sightline.open_job('encode', '{}', 'died')).job_id").fetchone()[0]
    connection.execute("select sightline.sweep('15 s', 3)")
    assert client.job(job_id).progress().state == "queued"
    connection.execute("update sightline.job set fed_at = now() - interval '11 minutes' where job_id = %s", (job_id,))
    connection.execute("select sightline.sweep('15 s', 3)")
    gone = client.job(job_id).wait(timeout=5)
    assert (gone.state, gone.error) == ("done", "the submitter went away")
    connection.execute("select sightline.add_items(%s, %s)", (job_id, '[{"text": "late"}]'))
    again = client.job(job_id).progress()
    assert (again.finished, again.sealed_at, again.pending, again.error) == (False, None, 1, None)


def test_a_job_waits_until_it_is_to_run(client: Sightline, connection: psycopg.Connection) -> None:
    later = datetime.now(UTC) + timedelta(hours=3)
    job = client.submit("encode", collection="later", items=[{"text": "a"}], run_at=later)
    assert connection.execute("select run_at from sightline.chunk where job_id = %s", (job.job_id,)).fetchone() == (
        later,
    )
    for wrong in (later.replace(tzinfo=None), "tomorrow"):
        with pytest.raises(UsageError, match="run_at must be a datetime with a time zone, not "):
            client.submit("encode", collection="later", items=[{"text": "b"}], run_at=wrong)  # type: ignore[arg-type]


def test_an_idempotency_key_returns_the_first_job(client: Sightline) -> None:
    first = client.submit("encode", {}, collection="keys", items=[{"text": "a"}], idempotency_key="k")
    assert (
        client.submit("encode", {}, collection="keys", items=[{"text": "a"}], idempotency_key="k").job_id
        == first.job_id
    )
    with pytest.raises(
        RequestRefused, match=f'idempotency key "k" was used for another request \\(job {first.job_id}\\)'
    ):
        client.submit("encode", {}, collection="keys", items=[{"text": "b"}], idempotency_key="k")


def test_a_pool_has_a_queue_of_its_own(client: Sightline, connection: psycopg.Connection) -> None:
    job = client.ingest([b"picture"], collection="pool", space="pictures")
    queue = connection.execute("select queue from sightline.chunk where job_id = %s", (job.job_id,)).fetchone()
    assert queue == ("encode.big",)
    assert client.space("pictures").queue == "encode.big"


def test_an_empty_ingest_is_done_at_once(client: Sightline) -> None:
    assert client.ingest([], collection="empty").wait(timeout=5).state == "done"


def test_missing_says_why(client: Sightline, connection: psycopg.Connection) -> None:
    job = client.ingest([Item(text="waiting", external_id="waiting")], collection="why")
    connection.execute(
        "insert into sightline.item (collection_id, external_id, modality, text) select collection_id, 'forgotten', 'text', 'x' "
        "from sightline.collection where name = 'why'"
    )
    rows = connection.execute(
        "select external_id, reason, detail from sightline.missing('toy') where collection = 'why' order by 1"
    ).fetchall()
    assert rows == [("forgotten", "never submitted", None), ("waiting", "queued", f"job {job.job_id}")]
    same = connection.execute(
        "select count(*) from sightline.missing_items where space = 'toy' and collection = 'why'"
    ).fetchone()
    assert same == (2,)


def test_a_database_that_is_not_there_is_named(settings: Settings) -> None:
    with Sightline("postgresql://nobody@127.0.0.1:1/none", "redis://127.0.0.1:1", settings=settings) as client:
        client.database._pool.timeout = 0.5
        with pytest.raises(ServiceMissing, match="Postgres cannot be reached"):
            client.spaces()


def test_without_any_database_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ServiceMissing, match="sightline up"):
        Sightline(settings=Settings(home=tmp_path))


def test_a_text_for_a_space_of_images_fails_alone(client: Sightline, connection: psycopg.Connection) -> None:
    items = [Item(text="words", external_id="w"), Item(data=b"a picture", external_id="p"), Item(text="unnamed")]
    job = client.ingest(items, collection="pictures only", space="pictures")
    now = job.progress()
    assert (now.submitted, now.failed, now.pending) == (3, 2, 1)
    failures = job.failures()
    assert {failure.error_class for failure in failures} == {"UnsupportedModality"}
    assert "w: space pictures takes no texts" in {failure.message for failure in failures}
    plan = client.plan_ingest(items, collection="pictures only", space="pictures")
    assert (plan.unreadable, plan.unchanged) == (2, 1)


def test_a_submitter_taken_for_dead_that_was_only_slow_to_end_has_given_everything(
    client: Sightline, connection: psycopg.Connection
) -> None:
    def texts():
        yield from (
            Item(text=f"text {n}", external_id=str(n)) for n in range(512)
        )  # one batch: it is added before more is read
        connection.execute("update sightline.job set fed_at = fed_at - interval '11 minutes' where sealed_at is null")
        connection.execute("select sightline.sweep('15 s', 3)")

    job = client.ingest(texts(), collection="slow to end")
    now = job.progress()
    assert (now.submitted, now.error) == (512, None)
    assert now.sealed_at is not None
