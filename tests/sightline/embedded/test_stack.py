"""One stack: what it offers, who may use it, and that its data stays."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import redis
import sqlalchemy as sa

from sightline.embedded import EmbeddedStack, remove_stack, running_stack
from sightline.errors import SightlineError, StackHeld


def test_vector_extension_is_there_in_a_tested_version(stack: EmbeddedStack) -> None:
    with psycopg.connect(stack.database_url) as db:
        db.execute("create extension if not exists vector")
        version = db.execute("select extversion from pg_extension where extname = 'vector'").fetchone()
        nearest = db.execute("select '[1,2]'::halfvec <-> '[1,4]'").fetchone()
    assert version is not None
    assert tuple(map(int, version[0].split("."))) >= (0, 8, 4)
    assert nearest == (2.0,)


def test_a_users_own_table_lies_beside_the_schema_and_not_in_it(stack: EmbeddedStack) -> None:
    with psycopg.connect(stack.database_url) as connection:
        connection.execute("create schema if not exists sightline")
        connection.execute("create table product (name text)")
        where = connection.execute("select schemaname from pg_tables where tablename = 'product'").fetchone()
        assert where == ("public",)
        connection.rollback()


def test_server_is_postgres_18_in_utf8_with_rules_that_no_locale_changes(stack: EmbeddedStack) -> None:
    with psycopg.connect(stack.database_url) as db:
        query = (
            "select current_setting('server_version_num')::int / 10000, pg_encoding_to_char(encoding), datlocprovider"
        )
        row = db.execute(f"{query} from pg_database where datname = current_database()").fetchone()
        assert row == (18, "UTF8", "b")
        assert db.execute("select lower('ÅÉ'), 'Z' < 'a'").fetchone() == ("åé", True)
        assert db.execute("show listen_addresses").fetchone() == ("",)


def test_dsn_works_in_sqlalchemy_and_psql_whatever_the_users_environment_says(
    stack: EmbeddedStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PGPORT": "1", "PGHOST": "nowhere.invalid", "PGUSER": "x", "PGDATABASE": "x"}.items():
        monkeypatch.setenv(name, value)
    engine = sa.create_engine(stack.database_url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as db:
        assert db.execute(sa.text("select current_user")).scalar_one() == "sightline"
    engine.dispose()
    command = [str(stack.psql), stack.database_url, "-Atc", "select current_database()"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "sightline\n"


def test_redis_refuses_a_wrong_password_and_never_evicts(stack: EmbeddedStack) -> None:
    address = stack.redis_url.partition("@")[2]
    for url in (f"redis://{address}", f"redis://:guess@{address}"):
        with redis.Redis.from_url(url) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
    with redis.Redis.from_url(stack.redis_url) as client:
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
        assert client.config_get("appendonly")["appendonly"] == "yes"
        assert client.config_get("bind")["bind"] == "127.0.0.1"


def test_another_shell_finds_both_servers(stack: EmbeddedStack, home: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from sightline.embedded import running_stack\n"
        "found = running_stack(Path(sys.argv[1])); print(found.pid, found.database_url, found.redis_url)"
    )
    shell = subprocess.run([sys.executable, "-c", script, str(home)], capture_output=True, text=True, check=True)
    assert shell.stdout.split() == [str(os.getpid()), stack.database_url, stack.redis_url]
    assert (home / "stack.json").stat().st_mode & 0o777 == 0o600
    assert stack.redis_url not in repr(running_stack(home))


def test_password_is_on_no_command_line_and_files_are_private(stack: EmbeddedStack, home: Path) -> None:
    password = stack.redis_url.partition(":")[2].partition("@")[0].lstrip("/:")
    listing = subprocess.run(["ps", "-axww", "-o", "command="], capture_output=True, text=True, check=True).stdout
    assert password not in listing
    for entry in home.iterdir():
        assert entry.stat().st_mode & 0o077 == 0, entry


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")
def test_children_have_sessions_of_their_own_and_do_not_inherit_the_lock(
    stack: EmbeddedStack, home: Path, postmaster: Callable[[], int]
) -> None:
    server = postmaster()
    assert os.getsid(server) == server
    files = [os.readlink(f"/proc/{server}/fd/{name}") for name in os.listdir(f"/proc/{server}/fd")]  # noqa: PTH208, PTH115
    assert str(home / "lock") not in files


def test_data_stays_over_stop_and_start_which_is_fast(stack: EmbeddedStack, home: Path) -> None:
    with psycopg.connect(stack.database_url) as db:
        db.execute("create table kept as select 42 as answer")
    with redis.Redis.from_url(stack.redis_url) as client:
        client.rpush("list", "kept")
    stack.stop()
    stack.stop()
    assert running_stack(home) is None
    with pytest.raises(SightlineError, match="does not run"):
        _ = stack.database_url
    began = time.monotonic()
    stack.start()
    assert time.monotonic() - began < 3
    assert stack.start() is stack
    with psycopg.connect(stack.database_url) as db:
        assert db.execute("select answer from kept").fetchone() == (42,)
    with redis.Redis.from_url(stack.redis_url) as client:
        assert client.lrange("list", 0, -1) == [b"kept"]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_copy_of_the_holder_does_not_stop_the_servers(stack: EmbeddedStack) -> None:
    child = os.fork()
    if child == 0:
        stack.stop()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with psycopg.connect(stack.database_url) as db:
        assert db.execute("select 1").fetchone() == (1,)


def test_removal_takes_the_data_and_nothing_else(stack: EmbeddedStack, home: Path) -> None:
    (home / "notes.txt").write_text("mine")
    with pytest.raises(StackHeld):
        remove_stack(home)
    stack.stop()
    remove_stack(home)
    assert sorted(entry.name for entry in home.iterdir()) == ["lock", "notes.txt"]
