"""Vectors from and to files: what is stored, what is refused by name, and that a round trip changes no bit."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psycopg
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from sightline.client import Sightline
from sightline.embedded.stack import EmbeddedStack
from sightline.errors import ConfigurationError, RequestRefused, UsageError
from sightline.item import Item
from sightline.settings import Settings
from sightline.transfer.binary import normalise
from sightline.transfer.seen import Seen
from tests.conftest import make_database

DIM = 16
PASSPORT = {"model": "points", "dim": DIM, "weights": "abc", "normalisation": "none"}


def create_space(url: str, name: str = "toy") -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("select sightline.create_space(%s, 'points', %s, %s)", (name, DIM, Jsonb(PASSPORT)))
        connection.execute("select sightline.alias_space('current', 'toy')")


@pytest.fixture(scope="module", autouse=True)
def space(database_url: str) -> None:
    create_space(database_url)
    create_space(database_url, "other")


@pytest.fixture
def second(stack: EmbeddedStack, template: str, redis_url: str, settings: Settings) -> Iterator[Sightline]:
    """A client of another database, which has the space but nothing in it."""
    url = make_database(stack, template)
    create_space(url)
    with Sightline(url, redis_url, settings=settings) as opened:
        yield opened


def random(rows: int, seed: int = 0, dtype: type = np.float32) -> np.ndarray:
    """Vectors of unequal length."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(rows, DIM)) * rng.uniform(0.5, 20, (rows, 1))).astype(dtype)


def save(folder: Path, vectors: np.ndarray, ids: list, passport: dict | None = PASSPORT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "vectors.npy", vectors)
    (folder / "ids.json").write_text(json.dumps(ids))
    if passport is not None:
        (folder / "passport.json").write_text(json.dumps(passport))
    return folder


def stored(client: Sightline, collection: str) -> list[tuple]:
    with client.database.transaction() as connection:
        return connection.execute(
            "select i.external_id, i.modality, i.text, i.metadata, i.group_key, i.generation, e.generation, e.norm, e.vec::text "
            "from sightline.item i join sightline.collection c using (collection_id) "
            "left join sightline.embedding e on e.item_id = i.item_id where c.name = %s order by 1",
            (collection,),
        ).fetchall()


def nearest(client: Sightline, query: np.ndarray, modality: str) -> list[tuple]:
    text = "[" + ",".join(f"{x}" for x in query) + "]"
    with client.database.transaction() as connection:
        return connection.execute(
            "select n.external_id, n.distance, n.score from sightline.nearest('toy', %s, 20, modality => %s) n",
            (text, modality),
        ).fetchall()


@pytest.mark.parametrize("file_format", ["npy", "parquet"])
def test_a_round_trip_changes_no_bit(client: Sightline, second: Sightline, tmp_path: Path, file_format: str) -> None:
    collection = f"round {file_format}"
    rows = [
        {"external_id": f"{n}", "metadata": {"n": n, "wörter": ["a", None]}, "group_key": f"g{n % 3}", "norm": None}
        | ({"modality": "text", "text": f"text {n}"} if n % 4 == 0 else {"modality": "image", "uri": f"s3://b/{n}"})
        | {"collection": collection, "digest": None}
        for n in range(500)
    ]
    for row in rows:
        row.setdefault("text", None)
        row.setdefault("uri", None)
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    save(tmp_path / "in", random(500), [])
    made = client.import_vectors("toy", [tmp_path / "in" / "vectors.npy"], [tmp_path / "rows.jsonl"])
    assert (made.rows, made.stored, made.new_items, made.failed) == (500, 500, 500, 0)
    out = client.export_vectors("toy", tmp_path / "out", file_format=file_format, collection=collection)
    assert (out.rows, out.stale, out.files) == (500, 0, 1)
    assert json.loads((tmp_path / "out" / "passport.json").read_text()) == PASSPORT
    back = second.import_vectors("toy", [tmp_path / "out"])
    assert (back.rows, back.stored, back.failed) == (500, 500, 0)
    assert stored(second, collection) == stored(client, collection)
    only = second.export_vectors("toy", tmp_path / "again", file_format=file_format)
    assert only.rows == 500
    with client.database.transaction() as connection:  # the other rounds' items are not in the second database
        connection.execute(
            "delete from sightline.item where collection_id <> (select collection_id from sightline.collection where name = %s)",
            (collection,),
        )
    for query in random(5, seed=9):
        for modality in ("image", "text"):
            assert nearest(client, query, modality) == nearest(second, query, modality) != []


def test_a_second_import_writes_nothing(client: Sightline, connection: psycopg.Connection, tmp_path: Path) -> None:
    save(tmp_path, random(300), [{"id": f"{n}", "colour": "red"} for n in range(300)])
    args = ("toy", [tmp_path / "vectors.npy"], [tmp_path / "ids.json"])
    first = client.import_vectors(*args, collection="twice")
    assert (first.stored, first.new_items, first.rows_per_second > 0) == (300, 300, True)
    query = (
        "select i.ctid, i.xmin, e.ctid, e.xmin, e.xmax from sightline.item i join sightline.embedding e using (item_id) "
        "join sightline.collection c using (collection_id) where c.name = 'twice' order by item_id"
    )
    before = connection.execute(query).fetchall()
    again = client.import_vectors(*args, collection="twice")
    assert (again.stored, again.replaced, again.unchanged, again.new_items) == (0, 0, 300, 0)
    assert connection.execute(query).fetchall() == before
    vectors = random(300)
    vectors[7] = -vectors[7]
    np.save(tmp_path / "vectors.npy", vectors)
    changed = client.import_vectors(*args, collection="twice")
    assert (changed.stored, changed.replaced, changed.unchanged) == (0, 1, 299)


def test_vectors_are_normalised_and_their_norm_is_kept(client: Sightline, tmp_path: Path) -> None:
    vectors = np.zeros((2, DIM), np.float32)
    vectors[0, :2] = 3, 4
    vectors[1, 0] = 70000  # more than float16 holds
    save(tmp_path, vectors, ["three-four", "large"])
    client.import_vectors("toy", [tmp_path / "vectors.npy"], [tmp_path / "ids.json"], collection="norms")
    found = {row[0]: (row[7], json.loads(row[8])[:2]) for row in stored(client, "norms")}
    assert found["large"] == (70000, [1, 0])
    assert found["three-four"][0] == 5
    assert found["three-four"][1] == pytest.approx([0.6, 0.8], abs=1e-3)
    out = client.export_vectors("toy", tmp_path / "out", collection="norms", unnormalised=True)
    exported = np.load(tmp_path / "out" / "vectors_00000.npy")
    assert (out.rows, exported.dtype) == (2, np.float32)
    assert exported[::-1] == pytest.approx(vectors, rel=1e-3)  # items are stored in order of their ids


def test_float16_of_length_one_keeps_its_bits(client: Sightline, tmp_path: Path) -> None:
    units = random(200).astype(np.float64)
    units = (units / np.linalg.norm(units, axis=1, keepdims=True)).astype(np.float16)
    save(tmp_path, units, list(range(200)))
    client.import_vectors("toy", [tmp_path / "vectors.npy"], [tmp_path / "ids.json"], collection="bits")
    got = {row[0]: np.array(json.loads(row[8]), np.float16) for row in stored(client, "bits")}
    assert all((got[str(n)] == units[n]).all() for n in range(200))


def test_the_layout_of_clip_retrieval(client: Sightline, tmp_path: Path) -> None:
    """Shards of which the tenth comes after the second, and a table of metadata for each."""
    vectors = random(11 * 20, dtype=np.float16)
    (tmp_path / "img_emb").mkdir()
    (tmp_path / "metadata").mkdir()
    for shard in range(11):
        part = range(shard * 20, shard * 20 + 20)
        np.save(tmp_path / "img_emb" / f"img_emb_{shard}.npy", vectors[part.start : part.stop])
        table = pyarrow.table(
            {
                "image_path": [f"{n // 100}/{n}.jpg" for n in part],
                "caption": [f"picture {n}" for n in part],
                "similarity": [float("nan") if n % 2 else 0.5 for n in part],
            }
        )
        pyarrow.parquet.write_table(table, tmp_path / "metadata" / f"metadata_{shard}.parquet")
    (tmp_path / "media" / "0").mkdir(parents=True)
    (tmp_path / "media" / "0" / "7.jpg").write_bytes(b"there")
    (tmp_path / "passport.json").write_text(json.dumps(PASSPORT))
    report = client.import_vectors(
        "toy", [tmp_path / "img_emb"], [tmp_path / "metadata"], collection="laion", source_column="image_path",
        root=tmp_path / "media", passport=tmp_path / "passport.json",
    )  # fmt: skip
    assert (report.stored, report.failed) == (220, 0)
    rows = {row[0]: row for row in stored(client, "laion")}
    assert rows["1/105.jpg"][3] == {"caption": "picture 105"}
    assert rows["1/104.jpg"][3] == {"caption": "picture 104", "similarity": 0.5}
    wide = vectors[105].astype(np.float64)
    assert np.array(json.loads(rows["1/105.jpg"][8])) == pytest.approx(wide / np.linalg.norm(wide), abs=1e-3)
    with client.database.transaction() as connection:
        uri, root = connection.execute("select uri, root from sightline.item where external_id = '0/7.jpg'").fetchone()
    assert (uri, root) == ((tmp_path / "media" / "0" / "7.jpg").as_uri(), str(tmp_path / "media"))


def test_a_bad_row_is_a_failure_and_its_neighbours_are_stored(client: Sightline, tmp_path: Path) -> None:
    vectors = random(9)
    vectors[1, 3] = np.nan
    vectors[2, 0] = np.inf
    vectors[3] = 0
    save(tmp_path, vectors, ["good", "nan", "inf", "zero", "good", "", None, "nul \x00", "also good"])
    report = client.import_vectors("toy", [tmp_path / "vectors.npy"], [tmp_path / "ids.json"], collection="bad")
    assert (report.rows, report.stored, report.failed) == (9, 2, 7)
    assert [row[0] for row in stored(client, "bad")] == ["also good", "good"]
    job = client.job(report.job_id)
    assert sorted((f.external_id, f.error_class) for f in job.failures()) == [
        ("good", "DuplicateId"), ("inf", "BadVector"), ("nan", "BadVector"), ("nul \\x00", "BadText"),
        ("row 5", "BadExternalId"), ("row 6", "BadExternalId"), ("zero", "BadVector"),
    ]  # fmt: skip
    messages = {f.external_id: f.message for f in job.failures()}
    assert messages["nan"] == "row 1 of ids.json: its vector holds NaN or an infinity"
    assert messages["good"] == "row 4 of ids.json: its id was given before; the first counts"
    assert (job.wait(timeout=5).failed, job.progress().pending) == (7, 0)


def test_a_vector_longer_than_a_float32_fails_alone(client: Sightline, tmp_path: Path) -> None:
    vectors = random(3)
    vectors[1] = np.finfo(np.float32).max
    save(tmp_path, vectors, ["good", "long", "also good"])
    report = client.import_vectors("toy", [tmp_path / "vectors.npy"], [tmp_path / "ids.json"], collection="long")
    assert [row[0] for row in stored(client, "long")] == ["also good", "good"]
    (failure,) = client.job(report.job_id).failures()
    assert (failure.external_id, failure.error_class) == ("long", "BadVector")
    assert failure.message == "row 1 of ids.json: its vector is longer than a float32 can say"


def test_an_id_given_again_in_a_later_batch_is_found(client: Sightline, tmp_path: Path) -> None:
    save(tmp_path, random(9000), [f"{n}" for n in range(8999)] + ["17"])
    report = client.import_vectors("toy", [tmp_path / "vectors.npy"], [tmp_path / "ids.json"], collection="late")
    assert (report.stored, report.failed) == (8999, 1)
    (failure,) = client.job(report.job_id).failures()
    assert (failure.external_id, failure.error_class) == ("17", "DuplicateId")


@given(st.lists(st.lists(st.integers(0, 300).map(str), max_size=60), max_size=20))
def test_seen_knows_exactly_what_was_added_before(batches: list[list[str]]) -> None:
    seen, model = Seen(), set[str]()
    for batch in batches:
        assert seen.add(batch) == [one in model for one in batch]
        model |= set(batch)


@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e4))
def test_normalised_rows_have_length_one(seed: int, scale: float) -> None:
    vectors = (random(20, seed) * scale).astype(np.float32)
    units, norms, problems = normalise(vectors, np.full(20, np.nan))
    assert problems == {}
    assert np.linalg.norm(units.astype(np.float64), axis=1) == pytest.approx(1, abs=2e-3)
    assert norms == pytest.approx(np.linalg.norm(vectors.astype(np.float64), axis=1), rel=1e-5)


def test_what_does_not_fit_is_refused_before_anything_is_stored(client: Sightline, tmp_path: Path) -> None:
    folder = save(tmp_path, random(4), ["a", "b", "c", "d"])
    vectors, ids = folder / "vectors.npy", folder / "ids.json"

    def refused(match: str, space: str = "toy", **options: object) -> None:
        with pytest.raises(UsageError, match=match):
            client.import_vectors(space, [vectors], [ids], collection="refused", **options)

    ids.write_text('["a", "b", "c"]')
    refused(r"vectors.npy has 4 vectors, .*ids.json has 3 ids")
    ids.write_text('{"a": 1}')
    refused(r"ids.json cannot be read: it must be a JSON array")
    ids.write_text('[{"name": "a"}, {"name": "b"}, {"name": "c"}, {"name": "d"}]')
    refused(r"which column is the id\? --id-column, one of: name")
    refused(r"there is no column 'path' \(--source-column\); columns: name", source_column="path")
    refused("texts are stored with their text: --text-column", modality="text", id_column="name")
    ids.write_text('["a", "b", "c", "d"]')
    refused('no space named "nope"', space="nope")
    for wrong, problem in (
        (random(4).astype(np.float64), r"holds float64; vectors are float16 or float32"),
        (random(4)[:, :8], r"has vectors of 8 dimensions, the space has 16"),
        (random(4)[0], r"has the shape \(16,\)"),
        (np.array(["text"]), r"has the shape"),
    ):
        np.save(vectors, wrong)
        refused(problem)
    vectors.write_bytes(b"no array")
    refused(r"is no .npy file of numbers")
    np.save(vectors, random(4))
    (folder / "passport.json").write_text(json.dumps(PASSPORT | {"weights": "xyz"}))
    with pytest.raises(RequestRefused, match=r"not of the space's model.*weights.*abc.*there, xyz"):
        client.import_vectors("toy", [vectors], [ids], collection="refused")
    (folder / "passport.json").write_text("{")
    refused("is no passport")
    (folder / "passport.json").unlink()
    refused(r"nothing says which model computed these vectors: .*--assume-passport")
    with pytest.raises(UsageError, match="there are no ids beside the vectors"):
        client.import_vectors("toy", [vectors])
    with pytest.raises(UsageError, match="there is no file"):
        client.import_vectors("toy", [folder / "none.npy"])
    (folder / "empty").mkdir()
    with pytest.raises(UsageError, match="there are no files of vectors"):
        client.import_vectors("toy", [folder / "empty"], [ids])
    with client.database.transaction() as connection:
        known = connection.execute("select count(*) from sightline.collection where name = 'refused'").fetchone()
    assert known == (0,)


def test_an_item_that_is_there_keeps_its_content(client: Sightline, tmp_path: Path) -> None:
    client.ingest(
        [Item(data=b"picture", external_id="image", metadata={"a": 1}), Item(text="words", external_id="text")],
        collection="there",
    )
    save(tmp_path, random(2), [{"id": "image", "b": 2}, {"id": "text"}])
    report = client.import_vectors("toy", [tmp_path / "vectors.npy"], [tmp_path / "ids.json"], collection="there")
    assert (report.stored, report.failed, report.new_items) == (1, 1, 0)
    (failure,) = client.job(report.job_id).failures()
    assert (failure.error_class, failure.message) == (
        "OtherItem", "text: the stored item of this id is of modality text",
    )  # fmt: skip
    with client.database.transaction() as connection:
        rows = connection.execute(
            "select blob_digest is not null, metadata, generation from sightline.item where external_id = 'image'"
        ).fetchall()
    assert rows == [(True, {"a": 1, "b": 2}, 1)]


def test_an_item_without_content_says_so_until_its_file_is_ingested(
    client: Sightline, connection: psycopg.Connection, tmp_path: Path
) -> None:
    save(tmp_path, random(1), ["a b.png"])
    client.import_vectors("toy", [tmp_path / "vectors.npy"], [tmp_path / "ids.json"], collection="bare")
    uri = "select uri, generation from sightline.item where external_id = 'a b.png'"
    assert connection.execute(uri).fetchone() == ("vector:a%20b.png", 1)
    missing = "select reason, detail from sightline.missing(%s) where collection = 'bare'"
    assert connection.execute(missing, ("toy",)).fetchall() == []
    ((reason, detail),) = connection.execute(missing, ("other",)).fetchall()
    assert reason == "no content"
    assert "imported as a vector" in detail
    again = client.ingest([Item(data=b"the file", external_id="a b.png")], collection="bare").progress()
    assert again.pending == 1  # nobody knows whether the vector is of this file
    assert connection.execute(uri).fetchone() == (None, 2)


def test_a_file_whose_digest_came_with_its_vector_is_not_encoded_again(
    client: Sightline, second: Sightline, connection: psycopg.Connection, tmp_path: Path
) -> None:
    client.ingest([Item(data=b"content", external_id="x.png")], collection="moved")
    vec = "[" + ",".join(["1"] * DIM) + "]"
    connection.execute(
        "insert into sightline.embedding (space_id, item_id, generation, norm, modality, vec) "
        "select 1, item_id, 1, 3, 'image', %s from sightline.item where external_id = 'x.png'",
        (vec,),
    )
    client.export_vectors("toy", tmp_path / "out", collection="moved")
    second.import_vectors("toy", [tmp_path / "out"])
    same = second.ingest([Item(data=b"content", external_id="x.png")], collection="moved").progress()
    assert (same.unchanged, same.pending) == (1, 0)
    with second.database.transaction() as other:
        row = other.execute("select blob_digest is not null, uri, generation from sightline.item").fetchone()
    assert row == (True, None, 1)


def test_an_export_is_whole_or_not_there(client: Sightline, connection: psycopg.Connection, tmp_path: Path) -> None:
    save(tmp_path / "in", random(3), ["fresh", "stale", "fresh too"])
    client.import_vectors("toy", [tmp_path / "in"], [tmp_path / "in" / "ids.json"], collection="whole")
    connection.execute("update sightline.item set generation = 2 where external_id = 'stale'")
    left = tmp_path / "out.partial"
    left.mkdir()
    (left / "passport.json").write_text("{}")
    (left / "vectors_00000.npy").write_bytes(b"half of")
    report = client.export_vectors("toy", tmp_path / "out", collection="whole")
    assert (report.rows, report.stale) == (2, 1)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "items_00000.jsonl", "passport.json", "vectors_00000.npy",
    ]  # fmt: skip
    assert not left.exists()
    with pytest.raises(UsageError, match="is there already"):
        client.export_vectors("toy", tmp_path / "out")
    with pytest.raises(UsageError, match="there is no collection 'nope'"):
        client.export_vectors("toy", tmp_path / "new", collection="nope")
    (tmp_path / "mine.partial").mkdir()
    with pytest.raises(UsageError, match="is in the way"):
        client.export_vectors("toy", tmp_path / "mine")
    assert client.export_vectors("other", tmp_path / "none").rows == 0
    assert client.import_vectors("toy", [tmp_path / "in"], [tmp_path / "in" / "ids.json"], collection="whole").rows == 3


def test_many_shards_are_read_back_in_order(
    client: Sightline, second: Sightline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sightline.transfer.exporter.SHARD_BYTES", 2 * DIM * 50)
    monkeypatch.setattr("sightline.transfer.exporter.FETCH_ROWS", 30)
    save(tmp_path / "in", random(700), list(range(700)))
    client.import_vectors("toy", [tmp_path / "in"], [tmp_path / "in" / "ids.json"], collection="many")
    for file_format in ("npy", "parquet"):
        report = client.export_vectors("toy", tmp_path / file_format, collection="many", file_format=file_format)
        assert (report.rows, report.files) == (700, 12)
        back = second.import_vectors("toy", [tmp_path / file_format])
        assert (back.rows, back.failed) == (700, 0)
        assert stored(second, "many") == stored(client, "many")
    assert back.unchanged == 700


def test_parquet_without_pyarrow_says_what_to_install(
    client: Sightline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'sightline\[parquet\]'"):
        client.import_vectors("toy", [tmp_path / "a.parquet"])
    with pytest.raises(ConfigurationError, match=r"pip install 'sightline\[parquet\]'"):
        client.export_vectors("toy", tmp_path / "out", file_format="parquet")


def test_a_parquet_column_of_lists_of_any_length_is_checked_row_by_row(client: Sightline, tmp_path: Path) -> None:
    vectors = [list(map(float, row)) for row in random(3)]
    vectors[1] = vectors[1][:5]
    table = pyarrow.table({"id": ["a", "b", "c"], "embedding": [*vectors[:2], None], "price": [1, 2, 3]})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    (tmp_path / "passport.json").write_text(json.dumps(PASSPORT))
    report = client.import_vectors("toy", [tmp_path / "rows.parquet"], collection="lists", vector_column="embedding")
    assert (report.stored, report.failed) == (1, 2)
    assert {f.external_id: f.message for f in client.job(report.job_id).failures()} == {
        "b": "row 1 of rows.parquet: it has 5 numbers, the space has 16",
        "c": "row 2 of rows.parquet: it has 0 numbers, the space has 16",
    }
    assert stored(client, "lists")[0][3] == {"price": 1}
    with pytest.raises(UsageError, match="has no column 'vector'; columns: id, embedding, price"):
        client.import_vectors("toy", [tmp_path / "rows.parquet"])
