"""Groups, near-duplicates and joins with one's own table, on rendered scenes and the bundled model."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from PIL import Image

from sightline.cli import main
from sightline.client import Sightline
from sightline.embedded.stack import EmbeddedStack
from sightline.item import Item

SCENES = 24


def jpeg(content: bytes, factor: float = 1.0) -> bytes:
    """The picture encoded again, at another size."""
    with Image.open(io.BytesIO(content)) as image:
        file = io.BytesIO()
        image.convert("RGB").resize((int(factor * image.width),) * 2).save(file, "JPEG", quality=75)
    return file.getvalue()


@pytest.fixture(scope="module", autouse=True)
def shop(services: object, client: Sightline, scenes: Path) -> dict[str, bytes]:
    """24 scenes, each a product; of the first six there is a JPEG, of the first three also a larger one and a second file."""
    files = {f"{n}.png": (scenes / f"scene-test-{n:06d}.png").read_bytes() for n in range(SCENES)}
    for n in range(6):
        files[f"{n}.jpg"] = jpeg(files[f"{n}.png"])
    for n in range(3):
        files[f"{n}-large.jpg"] = jpeg(files[f"{n}.png"], 1.5)
        files[f"{n}-again.png"] = files[f"{n}.png"]
    items = [
        Item(data=content, external_id=name, group_key=f"product-{name.split('.')[0].split('-')[0]}")
        for name, content in files.items()
    ]
    now = client.ingest(items, collection="shop").wait(timeout=60)
    assert (now.done, now.failed) == (len(files), 0)
    return files


@dataclass(frozen=True)
class Done:
    code: int
    stdout: str
    stderr: str


def cli(*arguments: str) -> Done:
    """The command line in this process: a new one takes seconds to start on a busy machine."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["sightline", *arguments])
        try:
            main()
        except SystemExit as end:
            code = end.code
    assert isinstance(code, int | None)
    return Done(code or 0, out.getvalue(), err.getvalue())


def test_near_duplicates_are_the_copies_and_nothing_else(connection: psycopg.Connection) -> None:
    rows = connection.execute(
        "select external_id, duplicate_external_id, distance from sightline.near_duplicates "
        "where space = 'scenes' and collection = 'shop' and modality = 'image'"
    ).fetchall()
    found = {frozenset(row[:2]): row[2] for row in rows}
    expected = set()
    for n in range(6):
        copies = [f"{n}.png", f"{n}.jpg", *([f"{n}-large.jpg", f"{n}-again.png"] if n < 3 else [])]
        expected |= {frozenset((a, b)) for i, a in enumerate(copies) for b in copies[:i]}
    assert set(found) == expected
    assert len(rows) == len(expected)
    assert all(found[frozenset((f"{n}.png", f"{n}-again.png"))] == 0 for n in range(3))


def test_search_per_group_in_the_shell(shop: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "query.png").write_bytes(shop["0.png"])
    common = ["search", "--image", str(tmp_path / "query.png"), "-k", "4", "--collection", "shop"]
    plain = json.loads(cli(*common, "--json").stdout)
    assert {hit["group_key"] for hit in plain["hits"]} == {"product-0"}
    grouped = json.loads(cli(*common, "--per-group", "--json").stdout)
    groups = [hit["group_key"] for hit in grouped["hits"]]
    assert (groups[0], len(set(groups)), grouped["status"]) == ("product-0", 4, "complete")
    table = cli(*common, "--per-group")
    assert table.code == 0
    assert "group" in table.stdout.splitlines()[0]
    assert "product-0" in table.stdout


def test_hits_are_joined_with_a_table_of_ones_own_from_psql(stack: EmbeddedStack, database_url: str) -> None:
    statements = """
        create table own_table (photo text primary key, price numeric not null);
        insert into own_table select n || '.png', n from generate_series(0, 23) n;
        select o.price, h.status
          from sightline.current_image v
          cross join lateral sightline.similar_to('current', v.item_id, 3, collection => 'shop', per_group => true) h
          join own_table o on o.photo = split_part(h.external_id, '-', 1) || '.png' or o.photo = h.external_id
          where v.external_id = '0.jpg' order by h.distance limit 1;
        select o.price
          from sightline.current_image v join own_table o on o.photo = v.external_id
          where o.price >= 3
          order by v.embedding <=> (select embedding from sightline.current_image where external_id = '5.jpg') limit 1;
    """
    done = subprocess.run(
        [stack.psql, database_url, "-v", "ON_ERROR_STOP=1", "-qAt", "-F", "|"],
        input=statements, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["0|complete", "5"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a text, or --image FILE"),
        (["a star", "--image", "x.png"], "give a text, or --image FILE"),
        (["--image", "no-such.png"], "no-such.png"),
        (["a star", "--where", "{year: 1}"], "--where is not JSON"),
        (["a star", "--where", "[1]"], "--where must be a JSON object"),
        (["a star", "--where", '{"year": {"$near": 1}}'], "is not a filter"),
        (["a star", "-k", "0"], "k must be a whole number from 1 to 10,000"),
        (["a star", "--collection", "nope"], 'no collection named "nope"'),
        (["a star", "--space", "nope"], 'no space named "nope"; spaces: scenes'),
        (["a star", "--modality", "video"], 'no modality "video"'),
    ],
)
def test_a_search_that_cannot_be_is_refused_in_one_line(arguments: list[str], message: str) -> None:
    done = cli("search", *arguments)
    assert done.code == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""
