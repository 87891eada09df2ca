"""Every command in docs/ is run as it stands there, by a reader who has done what the README says.

A block that cannot be run here has the line `<!-- not run: REASON -->` before it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file

from sightline.client import Sightline
from sightline.embedded.stack import EmbeddedStack
from sightline.item import Item
from tests.models.tiny_checkpoints import build_clip

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
RUN = ("sh", "python", "sql")
_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """One example of a page."""

    page: str
    number: int
    language: str
    code: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page}, example {self.number}:\n{self.code}"


def blocks(page: str) -> list[Block]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return [
        Block(page, number, found["language"], found["code"], found["reason"])
        for number, found in enumerate(_BLOCK.finditer(text), 1)
    ]


@pytest.fixture(scope="module")
def reader(
    services: object,
    client: Sightline,
    stack: EmbeddedStack,
    scenes: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, str]]:
    """The environment of a reader, in a folder of theirs: some photos, a text, a table of products and a model."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "photos").mkdir()
    for number, name in enumerate(("a.png", "b.png", "c.png"), 1):
        (folder / "photos" / name).write_bytes((scenes / f"scene-test-{number:06d}.png").read_bytes())
    (folder / "photos" / "notes.txt").write_text("no picture")
    build_clip(folder / "my-clip")
    old = build_clip(folder / "old-clip", seed=1)
    torch.save(load_file(old / "model.safetensors"), old / "pytorch_model.bin")
    (old / "model.safetensors").unlink()
    (folder / "star.png").write_bytes((scenes / "scene-test-000004.png").read_bytes())
    client.ingest(folder / "photos", collection="shop").wait(timeout=60)
    ads = [Item(text="a yellow star", external_id="ad-1"), Item(text="a red ring", external_id="ad-2")]
    client.ingest(ads, collection="shop").wait(timeout=60)
    _embed_elsewhere(client, folder)
    with client.database.transaction() as connection:
        connection.execute("create table product (image text, name text, price numeric)")
        connection.execute("insert into product values ('a.png', 'ring', 5), ('b.png', 'heart', 7)")
    programs = [str(Path(sys.executable).parent), str(stack.psql.parent)]
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([*programs, os.environ["PATH"]]),
        "PGCLIENTENCODING": "UTF8",
        "HOME": str(folder),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield environment


def _embed_elsewhere(client: Sightline, folder: Path) -> None:
    """The photos' vectors in the files that clip-retrieval leaves."""
    client.export_vectors("current", folder / "exported", collection="shop", modality="image")
    rows = [json.loads(line) for line in (folder / "exported" / "items_00000.jsonl").read_text().splitlines()]
    for name in ("img_emb", "metadata"):
        (folder / "embeddings" / name).mkdir(parents=True)
    (folder / "exported" / "vectors_00000.npy").rename(folder / "embeddings" / "img_emb" / "img_emb_0.npy")
    table = pyarrow.table({"image_path": [row["external_id"] for row in rows], "caption": ["a scene"] * len(rows)})
    pyarrow.parquet.write_table(table, folder / "embeddings" / "metadata" / "metadata_0.parquet")


@pytest.mark.parametrize("page", PAGES)
def test_every_example_of_a_page_works(page: str, reader: dict[str, str], client: Sightline) -> None:
    for block in blocks(page):
        assert block.language in {*RUN, "text", "json", "js"}, f"{block}\nsays no language"
        if block.reason is None and block.language in RUN:
            _run(block, client.database_url, reader)
            _settle(client)


def _run(block: Block, database_url: str, environment: dict[str, str]) -> None:
    command = {
        "sh": ["bash", "-euo", "pipefail"],
        "python": [sys.executable, "-"],
        "sql": ["psql", database_url, "-v", "ON_ERROR_STOP=1", "-At"],
    }[block.language]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            output, errors = process.communicate(block.code, timeout=100)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail(f"{block}\ndoes not end")
    # 1: some items failed, as the reader's notes.txt does
    assert process.returncode in {0, 1}, f"{block}\n{output}\n{errors}"
    assert "Traceback" not in errors, f"{block}\n{output}\n{errors}"


def _settle(client: Sightline) -> None:
    """Let the jobs of an example end before the next one."""
    end = time.monotonic() + 60
    with client.database.transaction() as connection:
        while connection.execute(
            "select 1 from sightline.job_progress where finished_at is null and state <> 'paused' limit 1"
        ).fetchone():
            assert time.monotonic() < end, "a job of an example does not end"
            time.sleep(0.05)


def test_what_is_not_run_says_why() -> None:
    skipped = [block for page in PAGES for block in blocks(page) if block.reason is not None]
    ran = [block for page in PAGES for block in blocks(page) if block.reason is None and block.language in RUN]
    assert len(skipped) < len(ran)
    assert not [block for block in skipped if len(block.reason.split()) < 2]
