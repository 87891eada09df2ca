"""The README's examples, run as they stand there."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sightline.client import Sightline
from sightline.embedded.stack import EmbeddedStack

README = Path(__file__).resolve().parents[2] / "README.md"
LINES = 10


def block(language: str) -> str:
    """The only block of a language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return found


@pytest.fixture(scope="module")
def photos(
    services: object, environment: dict[str, str], scenes: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A working folder with `photos`: three pictures and a file that is none."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "photos").mkdir()
    for name, number in (("a.png", 1), ("b.png", 2), ("c.png", 3)):
        (folder / "photos" / name).write_bytes((scenes / f"scene-test-{number:06d}.png").read_bytes())
    (folder / "photos" / "notes.txt").write_text("no picture")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def test_the_python_example(photos: Path) -> None:
    code = block("python")
    assert len(code.strip().splitlines()) <= LINES
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})  # noqa: S102 - the README's own
    lines = printed.getvalue().splitlines()
    assert lines[0] == "3 images encoded"
    assert lines[1].startswith("notes.txt NotAnImage")
    assert {line.split()[1] for line in lines[2:]} == {"a.png", "b.png", "c.png"}


def test_the_sql_example_from_psql_alone(
    photos: Path, stack: EmbeddedStack, database_url: str, client: Sightline
) -> None:
    def psql(statement: str) -> list[list[str]]:
        done = subprocess.run(
            [stack.psql, database_url, "-v", "ON_ERROR_STOP=1", "-At", "-F", "|", "-c", statement],
            capture_output=True, text=True, check=False, env={**os.environ, "PGCLIENTENCODING": "UTF8"},
        )  # fmt: skip
        assert done.returncode == 0, f"{statement}\n{done.stderr}"
        return [line.split("|") for line in done.stdout.splitlines()]

    psql("create table product (name text, image text, price numeric)")
    psql("insert into product values ('ring', 'a.png', 5), ('heart', 'b.png', 7), ('dear', 'c.png', 70)")
    statements = [s.strip() for s in block("sql").split(";") if s.strip()]
    answers = []
    for statement in statements:
        answers.append(psql(statement))
        if "submit(" in statement:
            client.job(int(answers[-1][0][0])).wait(timeout=60)
    spaces, count, job, progress, nearest, similar, joined, failed, missing = answers
    assert spaces == [["scenes", "sightline/scenes-dual-encoder", spaces[0][2]]]
    assert count == [["3"]]
    assert progress == [["done", "1", "1", "0", "0"]]
    assert int(job[0][0]) > 0
    assert {row[0] for row in nearest} == {"a.png", "b.png", "c.png"}
    assert {row[2] for row in nearest} == {"fewer_exist"}
    assert {row[1] for row in similar} == {"b.png", "c.png"}
    assert sorted(row[0] for row in joined) == ["heart", "ring"]
    assert [row[:2] for row in failed] == [["notes.txt", "NotAnImage"]]
    assert [row[:2] for row in missing] == [["notes.txt", "failed"]]


def test_a_job_submitted_from_psql_is_seen_done(photos: Path, stack: EmbeddedStack, database_url: str) -> None:
    submit = "select sightline.submit('encode', '{}', 'psql', '[{\"text\": \"a small white ring\"}]')"
    job = subprocess.run(
        [stack.psql, database_url, "-At", "-c", submit], capture_output=True, text=True, check=True
    ).stdout.strip()
    state, end = "", time.monotonic() + 60
    while state != "done" and time.monotonic() < end:
        query = f"select state from sightline.job_progress where job_id = {job}"
        state = subprocess.run(
            [stack.psql, database_url, "-At", "-c", query], capture_output=True, text=True, check=True
        ).stdout.strip()
    assert state == "done"
