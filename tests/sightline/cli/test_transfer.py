"""The commands of ingest, import and export: what they say, and what they exit with."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import psycopg
import pytest
from PIL import Image
from psycopg.types.json import Jsonb

from tests.sightline.cli.conftest import Cli

PASSPORT = {"model": "points", "dim": 4, "weights": "abc"}


@pytest.fixture(scope="module", autouse=True)
def space(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("select sightline.create_space('toy', 'points', 4, %s)", (Jsonb(PASSPORT),))
        connection.execute("select sightline.alias_space('current', 'toy')")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in "abcd":
        (folder / f"{name}.png").write_text(name)
        os.utime(folder / f"{name}.png", (1e9, 1e9))
    return folder


def test_ingest_says_what_it_would_do_and_prunes(given: Cli, photos: Path) -> None:
    command = ["ingest", str(photos), "--collection", "prune", "--no-wait"]
    (photos / "empty.png").touch()
    planned = given(*command, "--prune", "--dry-run")
    assert planned.code == 0
    assert "4 new, 0 changed, 0 unchanged" in planned.out
    assert "1 unreadable" in planned.out
    assert "encoded nothing yet, so there is no rate to go by" in planned.out
    assert "empty.png: EmptyFile" in planned.err
    (photos / "empty.png").unlink()
    assert given(*command).code == 0
    (photos / "a.png").unlink()
    plan = given(*command, "--prune", "--dry-run", "--json").data
    assert (plan["new"], plan["unchanged"], plan["prune"][0]["gone"], plan["prune"][0]["problem"]) == (0, 3, 1, None)
    pruned = given(*command, "--prune")
    assert pruned.code == 0
    assert f"pruned 1 of 4 items of {photos}" in pruned.out
    for name in "bc":
        (photos / f"{name}.png").unlink()
    refused = given(*command, "--prune")
    assert refused.code == 4
    assert "nothing was pruned: 2 of 3 items" in refused.err
    assert "--prune-all" in refused.err
    both = given(*command, "--prune-all", "--json")
    assert (both.code, both.data["pruned"][0]["deleted"]) == (0, 2)
    assert given("ingest", str(photos / "d.png"), "--prune").code == 2


def test_vectors_go_out_and_come_back(given: Cli, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    vectors = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    vectors[3] = 0
    np.save(tmp_path / "in" / "v.npy", vectors)
    (tmp_path / "ids.txt").write_text("a\nb\nc\nd\ne\n")
    command = ["space", "import", "toy", "--vectors", str(tmp_path / "in"), "--ids", str(tmp_path / "ids.txt")]
    unknown = given(*command)
    assert (unknown.code, "--assume-passport" in unknown.err) == (2, True)
    assert len(unknown.err.strip().splitlines()) == 1
    assumed = given(*command, "--assume-passport", "--collection", "c")
    assert assumed.code == 1
    assert "5 rows: 4 vectors stored, 0 replaced, 0 unchanged, 1 failed; 4 new items" in assumed.out
    assert "compared with the model: 0 vectors" in assumed.out
    assert "d: BadVector: row 3 of ids.txt: its vector is zero" in assumed.err
    (tmp_path / "in" / "passport.json").write_text(json.dumps(PASSPORT | {"weights": "other"}))
    other = given(*command)
    assert other.code == 2
    assert re.search(r"weights.*abc.*there, other", other.err)
    out = given("export", "toy", str(tmp_path / "out"), "--collection", "c", "--json")
    assert (out.code, out.data["rows"]) == (0, 4)
    again = given("export", "toy", str(tmp_path / "out"))
    assert (again.code, "is there already" in again.err) == (2, True)
    back = given("space", "import", "toy", "--vectors", str(tmp_path / "out"), "--json")
    assert (back.code, back.data["unchanged"], back.data["failed"]) == (0, 4, 0)


def test_an_index_is_dropped_before_a_bulk_load_and_built_after(given: Cli) -> None:
    assert given("space", "index", "toy").code == 0
    dropped = given("space", "index", "toy", "--drop", "--json")
    assert {index["state"] for index in dropped.data} == {"none"}
    assert {index["state"] for index in given("space", "index", "toy", "--json").data} == {"ready"}
    assert given("space", "index", "toy", "--drop", "--rebuild").code == 2


def test_captions_go_into_shards_and_the_same_command_says_what_was_there(
    given: Cli, photos: Path, tmp_path: Path
) -> None:
    rows = [{"path": str(photos / f"{name}.png"), "external_id": name, "metadata": {"caption": name}} for name in "ab"]
    for name in "ab":
        Image.new("RGB", (8, 8)).save(photos / f"{name}.png")
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert given("ingest", "--jsonl", str(tmp_path / "items.jsonl"), "--collection", "pairs", "--no-wait").code == 0
    command = ["export", str(tmp_path / "shards"), "--collection", "pairs", "--shard-pairs", "1"]
    assert re.match(r"2 pairs in 2 files of \S+, \d+ pairs/s$", given(*command).out)
    again = given(*command, "--json")
    assert (again.code, again.data["pairs"], again.data["resumed"]) == (0, 2, 2)
    changed = given(*command, "--keep-share", "0.5")
    assert (changed.code, "asked for differently (keep_share: None)" in changed.err) == (2, True)
    assert given("export", str(tmp_path / "new"), "--format", "npy").code == 2
    assert given("export", "toy", str(tmp_path / "new"), "--format", "webdataset").code == 2
    assert given("export", "a", "b", "c").code == 2
