"""Whatever dies, and however: the next start works within seconds, and committed rows are there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from sightline.embedded import EmbeddedStack, running_stack
from sightline.embedded.process import commands, identify, wait_until
from sightline.errors import StackHeld

Hold = Callable[..., Any]  # the fixture `hold`: starts another process that holds `home`
Pid = Callable[[], int]


@contextmanager
def _committed_row_survives(holder: Any, home: Path) -> Iterator[None]:
    """Commit a row before the body, which crashes things; then start again, expect the row, and stop."""
    with psycopg.connect(holder.database_url, autocommit=True) as db:
        db.execute("create table if not exists kept (id int generated always as identity)")
        row = db.execute("insert into kept default values returning id").fetchone()
    yield
    began = time.monotonic()
    with EmbeddedStack(home, durable=False) as stack:
        assert time.monotonic() - began < 10
        with psycopg.connect(stack.database_url) as db:
            assert db.execute("select max(id) from kept").fetchone() == row
        with redis.Redis.from_url(stack.redis_url) as client:
            assert client.ping()
    assert _processes_of(home) == []


def _processes_of(home: Path) -> list[int]:
    """Return the pids of all servers that work in a folder of `home`."""
    found = []
    for pid in commands():
        try:
            works_in = Path(f"/proc/{pid}/cwd").resolve(strict=True)
        except OSError:
            continue
        if works_in in (home / "postgres", home / "redis") and identify(pid):
            found.append(pid)
    return found


def test_second_holder_is_told_the_pid_of_the_first(home: Path, hold: Hold) -> None:
    first = hold()
    with pytest.raises(StackHeld, match=rf"held by process {first.process.pid} .*since 2.*sightline dsn"):
        EmbeddedStack(home).start()
    found = running_stack(home)
    assert found is not None
    assert (found.pid, found.database_url, found.redis_url) == (first.process.pid, first.database_url, first.redis_url)
    with psycopg.connect(first.database_url) as db:  # the refused one has touched nothing
        assert db.execute("select 1").fetchone() == (1,)


def test_servers_end_with_a_holder_that_was_killed(home: Path, hold: Hold) -> None:
    holder = hold()
    with _committed_row_survives(holder, home):
        assert len(_processes_of(home)) > 1
        holder.kill()
        assert running_stack(home) is None
        assert wait_until(lambda: not _processes_of(home), 10)


def test_start_right_after_the_holder_was_killed(home: Path, hold: Hold) -> None:
    holder = hold()
    with _committed_row_survives(holder, home):
        holder.kill()


def test_servers_that_outlive_their_holder_are_replaced(home: Path, hold: Hold) -> None:
    holder = hold("untethered")
    with closing(psycopg.connect(holder.database_url)) as idle:
        with _committed_row_survives(holder, home):
            idle.execute("select 1")
            holder.kill()
            time.sleep(0.3)
            assert len(_processes_of(home)) > 1
        with pytest.raises(psycopg.OperationalError):
            idle.execute("select 1")


def test_everything_killed_at_once(home: Path, hold: Hold) -> None:
    holder = hold("untethered")
    with _committed_row_survives(holder, home):
        for pid in (holder.process.pid, *_processes_of(home)):
            os.kill(pid, signal.SIGKILL)
        holder.kill()
        assert (home / "postgres" / "postmaster.pid").exists()


def test_busy_backend_that_outlives_the_server_does_not_block_the_next_start(
    home: Path, hold: Hold, postmaster: Pid
) -> None:
    holder = hold("untethered")
    with _committed_row_survives(holder, home):
        holder.kill()
        with closing(psycopg.connect(holder.database_url)) as db:
            backend = db.info.backend_pid
            os.kill(backend, signal.SIGSTOP)  # as deep in a computation as can be
            os.kill(postmaster(), signal.SIGKILL)
            assert identify(backend)


@pytest.fixture
def stranger(home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """An unrelated process of the servers' own account: Postgres, which asks by a signal, takes it for a server."""
    with EmbeddedStack(home):
        owner = {"user": (home / "postgres").stat().st_uid} if os.geteuid() == 0 else {}
    with subprocess.Popen(["sleep", "120"], cwd="/", **owner) as process:
        yield process
        process.kill()


def test_stale_pid_files_whose_pid_now_belongs_to_another_process(
    home: Path, hold: Hold, postmaster: Pid, stranger: subprocess.Popen[bytes]
) -> None:
    holder = hold("untethered")
    with _committed_row_survives(holder, home):
        server = postmaster()
        for pid in (holder.process.pid, *_processes_of(home)):
            os.kill(pid, signal.SIGKILL)
        holder.kill()
        for file in (home / "postgres" / "postmaster.pid", next((home / "sockets").glob("*.lock"))):
            file.write_text(file.read_text().replace(str(server), str(stranger.pid), 1))
        record = home / "redis.pid.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | {"pid": stranger.pid}))
    assert stranger.poll() is None


def test_heal_starts_what_died_on_the_old_address(home: Path, postmaster: Pid) -> None:
    with EmbeddedStack(home, durable=False) as stack:
        assert stack.heal() == []
        before = stack.database_url, stack.redis_url
        for pid in (postmaster(), json.loads((home / "redis.pid.json").read_text())["pid"]):
            os.kill(pid, signal.SIGKILL)
        healed: list[str] = []
        assert wait_until(lambda: healed.extend(stack.heal()) or len(healed) == 2, 10)
        assert sorted(healed) == ["Postgres", "Redis"]
        assert (stack.database_url, stack.redis_url) == before
        with psycopg.connect(stack.database_url) as db, redis.Redis.from_url(stack.redis_url) as client:
            assert db.execute("select 1").fetchone() == (1,)
            assert client.ping()
        assert running_stack(home) == stack.info
