"""The command line as an operator uses it: `up` in one terminal, everything else in another."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sightline.embedded import EmbeddedStack, remove_stack
from tests.conftest import make_database

READY_SECONDS = 120


def run(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "SIGHTLINE_HOME": str(home), **environment}
    return subprocess.run(
        [sys.executable, "-m", "sightline", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=env,
        timeout=170,
    )


class Up:
    """A `sightline up` in the foreground of a terminal of its own."""

    def __init__(self, home: Path) -> None:
        self.output = home.with_suffix(".out")
        with self.output.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sightline", "up"], stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env={**os.environ, "SIGHTLINE_HOME": str(home), "SIGHTLINE_DRAIN_SECONDS": "5"}, start_new_session=True,
            )  # fmt: skip
        end = time.monotonic() + READY_SECONDS
        while "sightline is up" not in self.text:
            assert self.process.poll() is None, self.text
            assert time.monotonic() < end, self.text
            time.sleep(0.1)

    @property
    def text(self) -> str:
        return self.output.read_text()

    def interrupt(self) -> int:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)


def processes_of(home: Path) -> list[str]:
    """Command lines that name the state folder."""
    listing = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in listing if str(home) in line and "ps -eo" not in line]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("up") / "home"
    yield folder
    remove_stack(folder)  # as root its data may lie elsewhere, for pytest's folders are private


@pytest.fixture(scope="module")
def up(home: Path) -> Iterator[Up]:
    running = Up(home)
    yield running
    if running.process.poll() is None:
        running.interrupt()


def test_up_says_how_to_connect(up: Up, home: Path) -> None:
    assert "postgresql://" in up.text
    assert "sightline dsn --redis" in up.text
    assert "psql" in up.text
    dsn = run(home, "dsn").stdout.strip()
    assert dsn in up.text.replace("\n", "")
    both = json.loads(run(home, "dsn", "--json").stdout)
    assert both["database_url"] == dsn
    assert run(home, "dsn", "--redis").stdout.strip() == both["redis_url"]


def test_a_second_up_says_who_holds_the_folder(up: Up, home: Path) -> None:
    second = run(home, "up")
    assert second.returncode == 3
    assert str(up.process.pid) in second.stderr
    assert len(second.stderr.strip().splitlines()) == 1


def test_ingest_search_and_the_ledger(up: Up, home: Path, scenes: Path, tmp_path: Path) -> None:
    ended = run(home, "ingest", "--jsonl", str(scenes / "items.jsonl"), "--collection", "scenes", "--json")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["done"] == 120
    found = run(home, "search", "a red star", "-k", "3", "--where", '{"n": {"$gte": 2}}', "--json")
    hits = json.loads(found.stdout)
    assert len(hits["hits"]) == 3
    assert hits["status"] == "complete"
    assert all(hit["metadata"]["n"] >= 2 for hit in hits["hits"])
    table = run(home, "search", "--image", str(scenes / "scene-test-000005.png"), "-k", "1")
    assert "1.000" in table.stdout
    assert "scene-test-000005.png" in table.stdout

    (tmp_path / "bad.png").write_bytes(b"nothing")
    failed = run(home, "ingest", str(tmp_path), "--collection", "bad")
    assert failed.returncode == 1
    assert "bad.png: NotAnImage" in failed.stderr
    assert json.loads(run(home, "failures", "--json").stdout)[0]["external_id"] == "bad.png"

    jobs = json.loads(run(home, "jobs", "--json").stdout)
    assert [(job["state"], job["submitted"]) for job in jobs] == [("done", 1), ("done", 120)]
    spaces = json.loads(run(home, "spaces", "--json").stdout)
    assert [(space["name"], space["aliases"]) for space in spaces] == [("scenes", ["current"])]
    status = json.loads(run(home, "status", "--json").stdout)
    assert [worker["queues"] for worker in status["workers"]] == [["caption", "encode", "rerank"]]
    assert status["spaces"][0]["vectors"] == 120
    assert "sightline_hnsw" not in run(home, "space", "index", "current").stdout
    assert [i["state"] for i in json.loads(run(home, "space", "index", "--status", "--json").stdout)] == [
        "ready",
        "ready",
    ]
    assert "revision 0005" in run(home, "migrate").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["search"], 2, "give a text, or --image FILE"),
        (["search", "x", "--where", "{"], 2, "--where is not JSON"),
        (["search", "x", "--space", "nope"], 2, 'no space named "nope"'),
        (["search", "x", "--where", '{"a": {"$near": 1}}'], 2, "is not a filter"),
        (["ingest", "/no/such/folder"], 2, "there is no file or folder"),
        (["ingest"], 2, "give paths of files or folders, or --jsonl"),
        (["space", "create", "other", "--model", "/no/such/model"], 3, "/no/such/model"),
        (["space", "create", "Bad Name", "--model", "bundled"], 2, '"Bad Name" cannot be the name of a space'),
        (["demo", "--images", "/no/such/folder"], 2, "there is no folder"),
        (["nonsense"], 2, "No such command"),
    ],
)
def test_errors_are_one_line_that_says_what_to_do(
    up: Up, home: Path, arguments: list[str], code: int, message: str
) -> None:
    ended = run(home, *arguments)
    assert ended.returncode == code, ended.stderr
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"SIGHTLINE_CHUNK_SLOTS": "many"}, "SIGHTLINE_CHUNK_SLOTS: Input should be a valid integer"),
        ({"SIGHTLINE_MEDIA_ROOTS": "/data"}, "SIGHTLINE_MEDIA_ROOTS must be a JSON list"),
        (
            {
                "SIGHTLINE_DATABASE_URL": "postgresql+psycopg://x@127.0.0.1:1/x",
                "SIGHTLINE_REDIS_URL": "redis://127.0.0.1:1",
            },
            "Postgres cannot be reached",
        ),
    ],
)
def test_a_bad_setting_is_named(tmp_path: Path, environment: dict[str, str], message: str) -> None:
    ended = run(tmp_path, "jobs", **environment)
    assert ended.returncode == 3
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_ctrl_c_stops_everything_and_leaves_the_data(up: Up, home: Path) -> None:
    assert up.interrupt() == 0
    assert processes_of(home) == []
    gone = run(home, "jobs")
    assert gone.returncode == 3
    assert "sightline up" in gone.stderr
    again = Up(home)
    try:
        assert [job["submitted"] for job in json.loads(run(home, "jobs", "--json").stdout)] == [1, 120]
        assert len(json.loads(run(home, "search", "a ring", "-k", "2", "--json").stdout)["hits"]) == 2
        again.process.kill()  # a crash: no clean-up of any kind
        again.process.wait()
        third = Up(home)
        assert len(json.loads(run(home, "search", "a ring", "-k", "2", "--json").stdout)["hits"]) == 2
        assert third.interrupt() == 0
        assert processes_of(home) == []
    finally:
        again.process.kill()


def test_the_demo_runs_by_itself(tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.html"
    home = tmp_path / "home"
    ended = run(
        home, "demo", "--scenes", "150", "--sheet", str(sheet), "--query", "a red circle", "--query", "it's <b>odd</b>"
    )
    assert ended.returncode == 0, ended.stderr
    assert "152 submitted, 152 encoded" in ended.stdout
    assert "bundled: trained on rendered scenes only" in ended.stdout
    assert re.search(r"it returns the same 6 images", ended.stdout)
    page = sheet.read_text()
    assert page.count("data:image/webp;base64,") == 18
    assert "it&#x27;s &lt;b&gt;odd&lt;/b&gt;" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert processes_of(home) == []
    remove_stack(home)


def test_the_demo_uses_the_servers_that_are_given(stack: EmbeddedStack, template: str, tmp_path: Path) -> None:
    """On a database that was never migrated, and with no worker but the one that it starts."""
    given = {
        "SIGHTLINE_DATABASE_URL": make_database(stack, "template0"),
        "SIGHTLINE_REDIS_URL": stack.redis_url,
        "SIGHTLINE_KEY_PREFIX": "given:",
    }
    ended = run(tmp_path, "demo", "--scenes", "20", "--sheet", str(tmp_path / "sheet.html"), **given)
    assert ended.returncode == 0, ended.stderr
    assert "25 submitted, 25 encoded" in ended.stdout
    assert not (tmp_path / "stack.json").exists()
