"""Images with their captions in shards: what is in them by readers of others', and that they are the same again."""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow.parquet
import pytest
from PIL import Image

from sightline.client import Sightline
from sightline.errors import UsageError
from sightline.item import Item
from sightline.transfer import pair_query, pairs

N = 60
COLOURS = ("red", "green", "blue")


def picture(number: int, file_format: str) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, file_format)
    return file.getvalue()


@pytest.fixture(scope="module", autouse=True)
def album(database_url: str, client: Sightline) -> list[bytes]:
    """60 uploaded images: one in ten without a caption, one in ten with one of its owner's; the others have three captions.

    Of these one is wrong on purpose, and the better of the others matches with n / 60.
    """
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("select sightline.create_space('toy', 'points', 4)")
        connection.execute("select sightline.alias_space('current', 'toy')")
        contents = [picture(n, ("PNG", "JPEG", "WEBP")[n % 3]) for n in range(N)]
        client.ingest(
            [Item(data=content, external_id=f"photo.{n}", metadata={"n": n} | ({"caption": f"mine, number {n}"} if n % 10 == 1 else {}))
             for n, content in enumerate(contents)], collection="album",
        )  # fmt: skip
        client.ingest([Item(data=picture(999, "PNG"), external_id="x")], collection="other")
        client.ingest([Item(text="a text", external_id="t")], collection="album")
        for n in range(N):
            if n % 10 in (0, 1):
                continue
            for number, (recipe, text, match, negative) in enumerate((
                ("describe", "a shape", 0.001, False), ("fusecap", f"a {COLOURS[n % 3]} thing number {n}", n / N, False),
                ("counterfactual", "a wrong one", 0.9999, True),
            )):  # fmt: skip
                connection.execute(
                    "insert into sightline.caption (item_id, recipe, model, params_digest, params, n, text, match, alignment, negative, provenance) "
                    "select item_id, %s, 'm', sha256('{}'), '{\"gamma\": 1.5}', %s, %s, %s, 0.25, %s, '{\"from\": [\"describe\"]}' "
                    "from sightline.item where external_id = %s",
                    (recipe, number, text, match, negative, f"photo.{n}"),
                )
    return contents


def samples(folder: Path) -> dict[str, dict[str, bytes]]:
    """Members by key and ending, as WebDataset groups them: a key ends at the first dot, and its files stand together."""
    found: dict[str, dict[str, bytes]] = {}
    order: list[str] = []
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                key, _, ending = member.name.partition(".")
                found.setdefault(key, {})[ending] = tar.extractfile(member).read()
                order.append(key)
    assert [key for n, key in enumerate(order) if n == 0 or order[n - 1] != key] == list(found), (
        "files of a key stand together"
    )
    return found


def names(folder: Path) -> list[str]:
    return [json.loads(sample["json"])["external_id"] for sample in samples(folder).values()]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("shard-*"))}


def test_a_webdataset_holds_image_caption_and_provenance(client: Sightline, tmp_path: Path, album: list[bytes]) -> None:
    report = client.export_pairs(tmp_path / "out", collection="album", shard_pairs=20)
    assert (report.pairs, report.shards, report.without_caption, report.unreadable) == (54, 3, 6, 0)
    found = samples(tmp_path / "out")
    assert len(found) == 54
    for sample in found.values():
        about = json.loads(sample["json"])
        n = about["metadata"]["n"]
        ending = ("png", "jpg", "webp")[n % 3]
        assert sample.keys() == {ending, "txt", "json"}
        assert sample[ending] == album[n]
        own = f"mine, number {n}"
        assert sample["txt"].decode() == (own if n % 10 == 1 else f"a {COLOURS[n % 3]} thing number {n}")
        assert (about["external_id"], about["collection"]) == (f"photo.{n}", "album")
        captions = {caption["recipe"]: caption for caption in about["captions"]}
        if n % 10 == 1:
            assert captions["own"]["text"] == own
            continue
        assert captions.keys() == {"describe", "fusecap", "counterfactual"}
        assert captions["counterfactual"]["negative"] is True
        assert captions["fusecap"]["match"] == pytest.approx(n / N)
        assert captions["fusecap"]["provenance"] == {"from": ["describe"]}
        assert captions["fusecap"]["params"] == {"gamma": 1.5}


def test_parquet_holds_the_same(client: Sightline, tmp_path: Path, album: list[bytes]) -> None:
    client.export_pairs(tmp_path / "tar", collection="album")
    client.export_pairs(tmp_path / "parquet", collection="album", file_format="parquet", shard_pairs=25)
    parts = sorted((tmp_path / "parquet").glob("*.parquet"))
    assert len(parts) == 3
    rows = [row for part in parts for row in pyarrow.parquet.read_table(part).to_pylist()]
    tars = samples(tmp_path / "tar")
    assert [row["key"] for row in rows] == list(tars)
    for row in rows:
        about = json.loads(tars[row["key"]]["json"])
        assert row["image"] == tars[row["key"]][row["ending"]] == album[about["metadata"]["n"]]
        assert row["text"] == tars[row["key"]]["txt"].decode()
        assert json.loads(row["metadata"]) == about["metadata"]
        assert [c["text"] for c in row["captions"]] == [c["text"] for c in about["captions"]]
        assert [json.loads(c["provenance"]) for c in row["captions"]] == [c["provenance"] for c in about["captions"]]


@pytest.mark.parametrize("file_format", ["webdataset", "parquet"])
def test_an_interrupted_export_goes_on_and_ends_as_if_it_had_not_been(
    client: Sightline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_format: Any
) -> None:
    asked = {"collection": "album", "file_format": file_format, "shard_pairs": 10, "keep_share": 0.9}
    monkeypatch.setattr(pair_query, "PAGE", 7)
    client.export_pairs(tmp_path / "whole", **asked)

    def fails_at(number: int, real: Callable[..., Any]) -> Callable[..., Any]:
        left = iter(range(number))

        def pair(*args: Any) -> Any:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return real(*args)

        return pair

    for _ in range(3):  # each run gets a shard and a half further
        with monkeypatch.context() as patch:
            patch.setattr(pairs, "_pair", fails_at(15, pairs._pair))
            with pytest.raises(KeyboardInterrupt):
                client.export_pairs(tmp_path / "cut", **asked)
        assert list((tmp_path / "cut").glob("*.partial"))
    report = client.export_pairs(tmp_path / "cut", **asked)
    assert report.resumed == 3
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    assert not list((tmp_path / "cut").glob("*.partial"))
    again = client.export_pairs(tmp_path / "cut", **asked)
    assert (again.pairs, again.shards, again.resumed) == (report.pairs, report.shards, report.shards)
    assert {k: v for k, v in vars(again).items() if k not in ("resumed", "pairs_per_second")} == {
        k: v for k, v in vars(report).items() if k not in ("resumed", "pairs_per_second")
    }


def test_the_best_share_is_kept_by_the_score_and_is_exact(client: Sightline, tmp_path: Path) -> None:
    report = client.export_pairs(tmp_path / "out", collection="album", keep_share=0.25)
    scored = [n for n in range(N) if n % 10 not in (0, 1)]
    best = sorted(scored)[-math.ceil(0.25 * len(scored)) :]
    assert names(tmp_path / "out") == [f"photo.{n}" for n in best]
    assert (report.pairs, report.filtered, report.without_score, report.without_caption) == (12, 36, 6, 6)


def test_equal_scores_are_decided_by_a_hash_of_the_content(client: Sightline, tmp_path: Path) -> None:
    """All have the alignment 0.25: half of them is an exact half, the same again, and another with another seed."""
    kept = {}
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        client.export_pairs(tmp_path / name, collection="album", keep_share=0.5, keep_by="alignment", seed=seed)
        kept[name] = names(tmp_path / name)
    assert len(kept["a"]) == len(kept["c"]) == 24
    assert kept["a"] == kept["b"] != kept["c"]


def test_balancing_keeps_the_rare_and_thins_the_common(client: Sightline, tmp_path: Path) -> None:
    (tmp_path / "entries").write_text("thing\nnumber 2\nnumber 3\n")
    report = client.export_pairs(tmp_path / "out", collection="album", balance=tmp_path / "entries", per_entry=8)
    kept = names(tmp_path / "out")
    assert {"photo.2", "photo.3"} <= set(kept), "what is rare is kept whole"
    assert not any(int(name.split(".")[1]) % 10 == 1 for name in kept), "what names no entry is left out"
    assert 4 <= len(kept) <= 20
    assert report.balanced == 54 - len(kept)
    client.export_pairs(tmp_path / "again", collection="album", balance=tmp_path / "entries", per_entry=8)
    assert files(tmp_path / "again") == files(tmp_path / "out")


def test_a_selected_caption_is_the_one_to_train_on(
    client: Sightline, tmp_path: Path, connection: psycopg.Connection[Any]
) -> None:
    connection.execute(
        "update sightline.caption set selected = true where recipe = 'describe' and item_id = (select item_id from sightline.item where external_id = 'photo.5')"
    )
    client.export_pairs(tmp_path / "out", collection="album")
    texts = {json.loads(sample["json"])["external_id"]: sample["txt"] for sample in samples(tmp_path / "out").values()}
    assert (texts["photo.5"], texts["photo.6"]) == (b"a shape", b"a red thing number 6")
    connection.execute("update sightline.caption set selected = false")


def test_an_image_whose_file_is_gone_or_changed_is_named_and_its_neighbours_are_written(
    database_url: str, redis_url: str, settings: Any, tmp_path: Path, connection: psycopg.Connection[Any]
) -> None:
    for n in range(4):
        (tmp_path / f"{n}.png").write_bytes(picture(n, "PNG"))
    rooted = settings.model_copy(update={"media_roots": [tmp_path]})
    with Sightline(database_url, redis_url, settings=rooted) as client:
        client.ingest(
            [Item(path=tmp_path / f"{n}.png", external_id=str(n), metadata={"caption": "c"}) for n in range(4)],
            collection="files",
        )
        connection.execute("update sightline.item set digest = sha256('what was there') where external_id = '2'")
        (tmp_path / "1.png").unlink()
        (tmp_path / "3.png").write_bytes(b"no picture")
        report = client.export_pairs(tmp_path / "out", collection="files")
        assert (report.pairs, report.unreadable) == (1, 3)
        assert [name for name, _ in report.problems] == ["1", "2", "3"]
        assert "another than was stored" in report.problems[1][1]
        assert client.export_pairs(tmp_path / "out", collection="files").problems == report.problems, (
            "they are still told"
        )


def test_a_folder_of_something_else_is_refused(client: Sightline, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UsageError, match="is there already"):
        client.export_pairs(tmp_path / "full")
    client.export_pairs(tmp_path / "out", collection="album", shard_pairs=30)
    with pytest.raises(UsageError, match=r"asked for differently \(keep_share: None\)"):
        client.export_pairs(tmp_path / "out", collection="album", shard_pairs=30, keep_share=0.5)
    for wrong, complaint in (
        ({"file_format": "zip"}, "webdataset, parquet, not 'zip'"),
        ({"keep_share": 0}, "above 0"),
        ({"keep_by": "luck"}, "match or alignment"),
        ({"collection": "nowhere"}, "no collection 'nowhere'"),
    ):
        with pytest.raises(UsageError, match=complaint):
            client.export_pairs(tmp_path / "new", **wrong)
