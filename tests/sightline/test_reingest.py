"""Ingesting again: what is written, what is read, what is encoded anew, what is pruned, and what a plan says of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import psycopg
import pytest
import typer

from sightline.cli.ingest import report
from sightline.client import Sightline
from sightline.errors import PolicyRefused, RequestRefused, UsageError
from sightline.item import Item
from sightline.settings import Settings
from tests.sightline.points import store, unit

LONG_AGO = (1e9, 1e9)


@pytest.fixture(scope="module", autouse=True)
def space(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("select sightline.create_space('toy', 'points', 4)")
        connection.execute("select sightline.alias_space('current', 'toy')")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of eight files in two folders, all written long ago."""
    for n in range(8):
        write(tmp_path / "photos" / ("old" if n % 2 else "new") / f"{n}.png", f"picture {n}")
    return tmp_path / "photos"


def write(file: Path, content: str, times: tuple[float, float] = LONG_AGO) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    os.utime(file, times)


def rows(connection: psycopg.Connection, columns: str, collection: str) -> dict[str, tuple]:
    found = connection.execute(
        f"select external_id, {columns} from sightline.item i join sightline.collection c using (collection_id) "
        "where c.name = %s order by 1",
        (collection,),
    ).fetchall()
    return {external_id: tuple(others) for external_id, *others in found}


def encode_all(connection: psycopg.Connection) -> None:
    """Give every item a vector, as a worker would; what it holds does not matter here."""
    connection.execute(
        "insert into sightline.embedding (space_id, item_id, generation, norm, modality, vec) "
        "select 1, item_id, generation, 1, modality, '[1,2,3,4]' from sightline.item "
        "on conflict (space_id, item_id, slot) do update set generation = excluded.generation"
    )


def dead_tuples(connection: psycopg.Connection) -> int:
    connection.execute("select pg_stat_force_next_flush()")
    connection.execute("select pg_stat_clear_snapshot()")
    names = "('item', 'blob', 'embedding_s1')"
    return connection.execute(f"select sum(n_dead_tup) from pg_stat_user_tables where relname in {names}").fetchone()[0]


def test_what_did_not_change_is_not_written(client: Sightline, connection: psycopg.Connection, photos: Path) -> None:
    texts = [Item(text=f"text {n}", external_id=f"t{n}", metadata={"n": n}, group_key="g") for n in range(4)]
    given = [photos, *texts, b"bytes of an image"]
    client.ingest(given, collection="same")
    encode_all(connection)
    before, dead = rows(connection, "i.ctid, i.xmin, i.xmax, i.updated_at", "same"), dead_tuples(connection)
    sequence = connection.execute("select last_value from sightline.item_item_id_seq").fetchone()
    again = client.ingest(given, collection="same").progress()
    assert (again.submitted, again.unchanged, again.skipped, again.state) == (13, 13, 13, "done")
    assert len(before) == 13
    assert rows(connection, "i.ctid, i.xmin, i.xmax, i.updated_at", "same") == before
    assert dead_tuples(connection) == dead
    assert connection.execute("select last_value from sightline.item_item_id_seq").fetchone() == sequence


def test_a_file_of_the_same_time_and_size_is_not_read_again(
    client: Sightline, connection: psycopg.Connection, photos: Path
) -> None:
    client.ingest(photos, collection="unread")
    before = rows(connection, "digest", "unread")
    write(photos / "new" / "0.png", "PICTURE 0")  # what nobody should do shows that nobody looked
    client.ingest(photos, collection="unread")
    assert rows(connection, "digest", "unread") == before
    write(photos / "new" / "0.png", "PICTURE 0", (1e9, 1e9 + 1))
    client.ingest(photos, collection="unread")
    assert rows(connection, "digest", "unread") != before


def test_an_id_that_comes_to_mean_another_file_is_read_though_time_and_size_are_equal(
    client: Sightline, connection: psycopg.Connection, tmp_path: Path
) -> None:
    for version in ("1", "2"):
        write(tmp_path / version / "a.png", f"version {version}")
        client.ingest(tmp_path / version, collection="versions")
    assert rows(connection, "generation", "versions") == {"a.png": (2,)}


def test_the_digest_decides_where_time_or_size_differ(
    client: Sightline, connection: psycopg.Connection, photos: Path
) -> None:
    client.ingest([Item(path=photos, metadata={"v": 1})], collection="digest")
    encode_all(connection)
    os.utime(photos / "new" / "0.png", (1e9, 1e9 + 5))  # touched
    write(photos / "new" / "2.png", "another picture")
    again = client.ingest(photos, collection="digest").progress()
    assert (again.unchanged, again.pending) == (7, 1)
    found = rows(connection, "generation, metadata, left(source_tag, 22)", "digest")
    assert found["new/0.png"] == (1, {"v": 1}, f"{10**18 + 5 * 10**9}-9-")
    assert found["new/2.png"] == (2, {"v": 1}, f"{10**18}-15")
    encode_all(connection)
    dressed = client.ingest([Item(path=photos, metadata={"w": 2})], collection="digest").progress()
    assert (dressed.unchanged, dressed.pending) == (8, 0)
    assert set(rows(connection, "metadata->'v', metadata->'w'", "digest").values()) == {(1, 2)}
    assert rows(connection, "generation", "digest")["new/2.png"] == (2,)


def test_a_file_of_this_moment_is_read_once_more(
    client: Sightline, connection: psycopg.Connection, tmp_path: Path
) -> None:
    """Another write within the tick of the file system's clock would leave time and size as they are."""
    later = 4e9
    write(tmp_path / "a.png", "first", (later, later))
    client.ingest(tmp_path, collection="young")
    assert rows(connection, "source_tag, generation", "young") == {"a.png": (None, 1)}
    write(tmp_path / "a.png", "secnd", (later, later))
    client.ingest(tmp_path, collection="young")
    assert rows(connection, "source_tag, generation", "young") == {"a.png": (None, 2)}


def test_files_that_stay_in_place_are_compared_by_what_the_worker_read(
    database_url: str, redis_url: str, connection: psycopg.Connection, photos: Path
) -> None:
    import hashlib

    with Sightline(database_url, redis_url, settings=Settings(media_roots=[photos])) as client:
        client.ingest(photos, collection="place")
        for n in range(8):  # a worker learns the digests
            digest = hashlib.sha256(f"picture {n}".encode()).digest()
            connection.execute("update sightline.item set digest = %s where external_id like %s", (digest, f"%{n}.png"))
        encode_all(connection)
        os.utime(photos / "new" / "0.png", (1e9, 1e9 + 5))
        write(photos / "new" / "2.png", "PICTURE 2", (1e9, 1e9 + 5))
        write(photos / "new" / "4.png", "longer than it was")
        again = client.ingest(photos, collection="place").progress()
    assert (again.unchanged, again.pending) == (6, 2)
    generations = rows(connection, "generation", "place")
    assert {name for name, (n,) in generations.items() if n == 2} == {"new/2.png", "new/4.png"}


def test_an_upload_that_moves_to_a_media_root_is_the_same_content(
    client: Sightline, database_url: str, redis_url: str, connection: psycopg.Connection, photos: Path
) -> None:
    client.ingest(photos, collection="move")
    encode_all(connection)
    with Sightline(database_url, redis_url, settings=Settings(media_roots=[photos])) as rooted:
        assert rooted.ingest(photos, collection="move").progress().unchanged == 8
    moved = rows(connection, "generation, uri is not null, blob_digest is null, digest is not null", "move")
    assert set(moved.values()) == {(1, True, True, True)}


def test_a_folder_that_cannot_be_read_is_a_failure_by_name(
    client: Sightline, connection: psycopg.Connection, photos: Path
) -> None:
    deep = photos
    here = Path.cwd()
    try:
        for _ in range(20):  # longer than any path may be: nobody can list it by name, not even root
            os.chdir(deep)
            deep = Path("d" * 250)
            deep.mkdir()
    finally:
        os.chdir(here)
    job = client.ingest(photos, collection="deep")
    (failure,) = job.failures()
    assert (failure.error_class, failure.external_id[:2]) == ("Unreadable", "dd")
    assert "File name too long" in failure.message
    assert (job.progress().submitted, job.progress().pending) == (9, 8)


def test_prune_deletes_what_is_gone_from_a_folder_and_nothing_else(
    client: Sightline, connection: psycopg.Connection, photos: Path, tmp_path: Path
) -> None:
    write(photos / os.fsdecode(b"caf\xe9.png"), "not UTF-8")
    (photos / "broken.png").symlink_to(photos / "nowhere")
    write(tmp_path / "elsewhere" / "x.png", "of another root")
    named = Item(path=photos / "new" / "0.png", external_id="named by me")
    client.ingest([photos, tmp_path / "elsewhere", named, Item(text="words", external_id="w")], collection="prune")
    encode_all(connection)
    before = set(rows(connection, "item_id", "prune"))
    for file in (photos / "new" / "0.png", photos / "old" / "1.png", tmp_path / "elsewhere" / "x.png"):
        file.unlink()
    (would,) = client.prune([photos], collection="prune", dry_run=True)
    assert (would.stored, would.gone, would.deleted, would.problem) == (9, 2, 0, None)
    assert set(rows(connection, "item_id", "prune")) == before
    (part,) = client.prune([photos / "old"], root=photos, collection="prune")
    assert (part.stored, part.gone, part.deleted) == (4, 1, 1)
    (done,) = client.prune([photos], collection="prune")
    assert (done.stored, done.gone, done.deleted) == (8, 1, 1)
    assert before - set(rows(connection, "item_id", "prune")) == {"new/0.png", "old/1.png"}
    orphans = connection.execute(
        "select count(*) from sightline.embedding e where not exists (select from sightline.item i where i.item_id = e.item_id)"
    )
    assert orphans.fetchone() == (0,)


def test_prune_refuses_what_looks_like_a_mistake(
    client: Sightline, connection: psycopg.Connection, photos: Path
) -> None:
    client.ingest(photos, collection="refuse")
    for n in range(8):
        (photos / ("old" if n % 2 else "new") / f"{n}.png").unlink()
    with pytest.raises(PolicyRefused, match=r"8 of 8 items of .* are gone, more than half; .*--prune-all"):
        client.prune([photos], collection="refuse")
    connection.execute(  # a name that no file system can look up
        "select sightline.submit('encode', '{}', 'refuse', jsonb_build_array(jsonb_build_object('external_id', repeat('x', 300), "
        "'text', 'a', 'root', %s::text)))",
        (str(photos),),
    )
    with pytest.raises(PolicyRefused, match="xxx cannot be looked up: File name too long"):
        client.prune([photos], collection="refuse", everything=True)
    assert len(rows(connection, "item_id", "refuse")) == 9
    connection.execute("delete from sightline.item where external_id like 'xxx%'")
    (done,) = client.prune([photos], collection="refuse", everything=True)
    assert (done.deleted, rows(connection, "item_id", "refuse")) == (8, {})
    with pytest.raises(UsageError, match="only folders can be pruned"):
        client.prune([photos / "nowhere"], collection="refuse")
    with pytest.raises(UsageError, match="does not lie below the root"):
        client.prune([photos], root=photos / "old", collection="refuse")


def counted(connection: psycopg.Connection) -> tuple:
    tables = ("item", "blob", "job", "chunk", "failure", "collection", "embedding")
    return tuple(connection.execute(f"select count(*) from sightline.{table}").fetchone()[0] for table in tables)


def test_a_plan_counts_what_an_ingest_then_does(
    client: Sightline, connection: psycopg.Connection, photos: Path
) -> None:
    (photos / "empty.png").touch()
    before = counted(connection)
    fresh = client.plan_ingest(photos, collection="plan")
    assert counted(connection) == before
    assert (fresh.new, fresh.changed, fresh.unchanged, fresh.unreadable, fresh.encode) == (8, 0, 0, 1, 8)
    assert (fresh.upload_files, fresh.upload_bytes) == (8, 8 * 9)
    assert fresh.problems[0]["class"] == "EmptyFile"
    client.ingest(photos, collection="plan")
    encode_all(connection)
    write(photos / "new" / "0.png", "changed")
    write(photos / "new" / "8.png", "one more")
    os.utime(photos / "old" / "1.png", (1e9, 1e9 + 5))
    given = [photos, Item(text="same", external_id="t"), Item(text="same", external_id="t")]
    before = counted(connection)
    plan = client.plan_ingest(given, collection="plan")
    assert counted(connection) == before
    assert (plan.new, plan.changed, plan.unchanged, plan.updated, plan.duplicates) == (2, 1, 7, 1, 1)
    assert (plan.unreadable, plan.encode, plan.upload_files, plan.upload_bytes) == (1, 3, 2, 15)
    did = client.ingest(given, collection="plan").progress()
    assert (did.submitted, did.pending, did.unchanged, did.failed, did.skipped) == (12, plan.encode, 7, 1, 8)


def test_a_plan_predicts_hours_from_the_ledger_and_says_when_it_cannot(
    client: Sightline, connection: psycopg.Connection
) -> None:
    connection.execute("select sightline.create_space('slow', 'points', 4)")
    items = [Item(text=f"{n}") for n in range(1000)]
    first = client.plan_ingest(items, collection="hours", space="slow")
    assert (first.items_per_second, first.hours, first.index_hours) == (None, None, None)
    job = client.ingest(items[:128], collection="hours", space="slow")
    connection.execute(  # two chunks at once for 4 s, then an idle hour
        "update sightline.chunk set state = 'done', n_done = 64, claimed_at = now() - interval '1 hour', "
        "finished_at = now() - interval '1 hour' + interval '4 s' where job_id = %s",
        (job.job_id,),
    )
    plan = client.plan_ingest(items, collection="hours", space="slow")
    assert plan.items_per_second == pytest.approx(32)
    assert plan.hours == pytest.approx(1000 / 32 / 3600)
    connection.execute(
        "create index slow_text_hnsw on sightline.embedding_s2 using hnsw ((vec::halfvec(4)) halfvec_cosine_ops) "
        "where slot = 0 and modality = 'text'"
    )
    indexed = client.plan_ingest(items, collection="hours", space="slow")
    assert indexed.indexes == ["slow_text_hnsw"]
    assert indexed.index_hours == pytest.approx((1 + 4 / 300) / 3600)  # 1 ms, and 1/300 for each dimension
    assert indexed.index_advice is not None
    assert "through slow_text_hnsw takes about 2 s (987 a second, usual for 4 dimensions)" in indexed.index_advice


def test_the_predicted_size_is_near_the_real_one(client: Sightline, connection: psycopg.Connection) -> None:
    connection.execute("select sightline.create_space('wide', 'points', 256)")
    size = "select pg_total_relation_size('sightline.item') + pg_total_relation_size('sightline.embedding_s3')"
    plan = client.plan_ingest([Item(text=f"{n}") for n in range(2000)], collection="size", space="wide")
    before = connection.execute(size).fetchone()[0]
    store(connection, "wide", "size", "text", unit(np.random.default_rng(1).normal(size=(2000, 256))), ["{}"] * 2000)
    connection.execute("create index on sightline.embedding_s3 using hnsw ((vec::halfvec(256)) halfvec_cosine_ops)")
    grown = connection.execute(size).fetchone()[0] - before
    assert grown / 1.6 < plan.gigabytes * 1e9 < grown * 1.6


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "must be a string and not empty"),
        ("x" * 201, r"has at most 200 characters, not 201"),
        ("nul \x00", "NUL character"),
        (None, "must be a string and not empty"),
    ],
)
def test_a_bad_name_of_a_collection_is_a_sentence(client: Sightline, name: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        client.ingest([Item(text="a")], collection=name)
    with pytest.raises(UsageError, match=problem):
        client.plan_ingest([Item(text="a")], collection=name)


def test_a_bad_name_of_a_collection_is_a_sentence_in_sql_too(client: Sightline) -> None:
    items = [{"text": "a"}]
    with pytest.raises(RequestRefused, match=r"name of a collection .*empty"):
        client.submit("encode", {}, collection="", items=items)
    with pytest.raises(RequestRefused, match="at most 200 characters, not 201"):
        client.submit("encode", {}, collection="x" * 201, items=items)


def test_a_job_that_broke_off_is_said_to_be_so(
    client: Sightline, connection: psycopg.Connection, capfd: pytest.CaptureFixture[str]
) -> None:
    job_id = connection.execute("select (sightline.open_job('encode', '{}', 'broke')).job_id").fetchone()[0]
    connection.execute("select sightline.seal_job(%s, 'the submitter went away')", (job_id,))
    job = client.job(job_id)
    ended = job.wait(timeout=5)
    with pytest.raises(typer.Exit) as exit_:
        report(job, ended, as_json=True)
    assert exit_.value.exit_code == 1
    printed = capfd.readouterr()
    assert json.loads(printed.out)["error"] == "the submitter went away"
    assert "is not whole: the submitter went away; run it again to resume" in printed.err
