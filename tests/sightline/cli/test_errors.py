"""Whatever is wrong, the user gets one line that says what, and what to do, and the stated exit code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from sightline.embedded.stack import EmbeddedStack
from sightline.migrate import migrate
from tests.conftest import _with_database, make_database
from tests.sightline.cli.conftest import Cli, Ended
from tests.sightline.doctor.conftest import alter
from tests.workers.processes import until

READS = [
    ["spaces"],
    ["jobs"],
    ["failures", "--all"],
    ["status"],
    ["retry", "--all"],
    ["dismiss", "--all"],
    ["cancel", "1"],
    ["pause", "--queue", "encode"],
    ["resume", "--collection", "c"],
    ["search", "a"],
    ["space", "index"],
    ["space", "alias", "current", "toy"],
]


def test_a_misspelt_setting_is_said_and_the_command_goes_on(given: Cli) -> None:
    ended = given("dsn", "--json", redis_uri="redis://elsewhere")
    assert ended.code == 0
    assert (
        ended.err
        == "sightline: SIGHTLINE_REDIS_URI is no setting and has no effect: did you mean SIGHTLINE_REDIS_URL?\n"
    )


def one_line(ended: Ended, code: int, *words: str) -> None:
    assert ended.code == code, ended.err
    lines = ended.err.strip().splitlines()
    assert len(lines) == 1, ended.err
    assert lines[0].startswith("sightline: ")
    for word in words:
        assert word in lines[0], lines[0]
    assert not re.search(r"_(check|fkey|pkey|key)\b|Traceback|psycopg\.|[a-z]Error\b", lines[0]), lines[0]


def test_no_stack_and_no_servers(cli: Cli) -> None:
    one_line(cli("jobs"), 3, "no embedded stack runs", "sightline up", "SIGHTLINE_DATABASE_URL")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://x@127.0.0.1:1/x", "Postgres cannot be reached"),
        ("postgresql://x@no.such.host.invalid/x", "Postgres cannot be reached"),
        ("mysql://host/db", "database URL cannot be used"),
        ("postgresql://x@[/x", "cannot be"),
        ("", "cannot be"),
    ],
)
@pytest.mark.parametrize("command", ["jobs", "migrate"])
def test_a_wrong_database_url(cli: Cli, url: str, words: str, command: str) -> None:
    if url:
        one_line(cli(command, database_url=url), 3, words)
    else:
        one_line(cli(command, database_url=url), 3)


def test_a_database_that_does_not_exist(cli: Cli, database_url: str) -> None:
    one_line(cli("jobs", database_url=_with_database(database_url, "nope")), 3, 'database "nope" does not exist')


@pytest.fixture
def guarded_database(database_url: str) -> Iterator[str]:
    """A database whose user `guarded` has to say a password."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        rules = Path(connection.execute("show hba_file").fetchone()[0])  # type: ignore[index]
        before = rules.read_text()
        connection.execute("create role guarded login password 'right'")
        rules.write_text(f"local all guarded scram-sha-256\n{before}")
        connection.execute("select pg_reload_conf()")
        guarded = database_url.replace("sightline@", "guarded:{}@")
        until(lambda: refused(guarded.format("wrong")))
        yield guarded
        rules.write_text(before)
        connection.execute("select pg_reload_conf()")
        connection.execute("drop role guarded")


def refused(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return True
    return False


def test_a_wrong_password_and_a_user_without_rights(cli: Cli, guarded_database: str) -> None:
    wrong = cli("jobs", database_url=guarded_database.format("wrong-secret"))
    one_line(wrong, 3, 'password authentication failed for user "guarded"')
    assert "wrong-secret" not in wrong.err
    one_line(cli("jobs", database_url=guarded_database.format("right")), 3, "lacks a right", "permission denied")


@pytest.mark.parametrize("arguments", READS, ids=" ".join)
def test_a_database_that_was_never_migrated(
    cli: Cli, stack: EmbeddedStack, redis_url: str, arguments: list[str]
) -> None:
    ended = cli(*arguments, database_url=stack.database_url, redis_url=redis_url)
    one_line(ended, 3, "the database has no sightline schema: run `sightline migrate`")


def test_a_database_of_an_older_revision(cli: Cli, stack: EmbeddedStack, template: str) -> None:
    url = make_database(stack, "template0")
    migrate(url, "0001")
    for arguments in (["jobs"], ["failures", "--all"], ["pause", "--queue", "encode"], ["status"]):
        ended = cli(*arguments, database_url=url)
        one_line(ended, 3, "at schema revision 0001, this sightline needs 0005: run `sightline migrate`")
    assert cli("migrate", database_url=url).code == 0
    assert cli("jobs", database_url=url).code == 0


def test_a_database_of_a_newer_revision(cli: Cli, stack: EmbeddedStack, template: str) -> None:
    url = make_database(stack, template)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("update sightline.migration set version_num = '9999'")
        connection.execute("alter view sightline.job_progress rename to job_progress_next")
    one_line(cli("jobs", database_url=url), 3, "revision 9999, newer than this sightline knows", "upgrade sightline")
    one_line(cli("migrate", database_url=url), 3, "revision 9999", "upgrade sightline")


def test_a_server_without_pgvector(cli: Cli, stack: EmbeddedStack, template: str) -> None:
    url = make_database(stack, "template0")
    alter(url, "extension_control_path = '/nowhere'")
    one_line(cli("migrate", database_url=url), 3, "no pgvector", "install it on the server")


def test_a_user_who_may_not_create_the_extension(cli: Cli, stack: EmbeddedStack, template: str) -> None:
    url = make_database(stack, "template0")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create role plain login")
        try:
            ended = cli("migrate", database_url=url.replace("sightline@", "plain@"))
        finally:
            connection.execute("drop role plain")
    one_line(ended, 3, "superuser", "create extension vector")


def test_a_replica_is_named_as_one(cli: Cli, stack: EmbeddedStack, template: str) -> None:
    url = make_database(stack, template)
    alter(url, "default_transaction_read_only = on")
    one_line(cli("pause", "--queue", "encode", database_url=url), 3, "takes no writes")


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "redis://:wrong@{address}/0", "http://x"])
def test_a_redis_out_of_reach(given: Cli, database_url: str, redis_url: str, url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("select sightline.create_space('toy', 'm', 4)")
        connection.execute("select sightline.alias_space('current', 'toy')")
    address = redis_url.rpartition("@")[2].partition("/")[0]
    ended = given("search", "a star", redis_url=url.format(address=address))
    one_line(ended, 3, "Redis")
    assert "wrong" not in ended.err.replace("wrongpass", "")


def test_a_full_redis(given: Cli, connection: psycopg.Connection, redis_url: str) -> None:
    connection.execute("select sightline.create_space('toy', 'm', 4)")
    connection.execute("select sightline.alias_space('current', 'toy')")
    with redis.Redis.from_url(redis_url) as server:
        server.config_set("maxmemory", 1)
        try:
            ended = given("search", "a star")
        finally:
            server.config_set("maxmemory", 0)
    one_line(ended, 3, "Redis refuses the request", "maxmemory", "sightline doctor")


def test_no_redis_and_no_worker(cli: Cli, database_url: str, redis_url: str) -> None:
    one_line(cli("search", "a", database_url=database_url), 3, "needs Redis: set SIGHTLINE_REDIS_URL")
    one_line(cli("worker", database_url=database_url), 3, "needs Redis: set SIGHTLINE_REDIS_URL")
    one_line(cli("up", database_url=database_url), 3, "set SIGHTLINE_REDIS_URL too")
    ended = cli("search", "a", database_url=database_url, redis_url=redis_url, call_seconds=0.2)
    one_line(ended, 3, "no worker answered", "sightline status")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["space", "alias", "No Alias", "toy"], '"No Alias" cannot be the name of an alias'),
        (["space", "alias", "current", "nope"], 'no space named "nope"'),
        (["cancel", "999"], "there is no job 999"),
        (["pause", "--queue", "encoed"], 'there is no queue "encoed"; queues: encode'),
        (["pause", "--collection", "nope"], 'there is no collection "nope"'),
        (["pause"], "give --queue or --collection"),
        (["resume", "--queue", "a", "--collection", "b"], "give --queue or --collection"),
        (["retry"], "say which failures"),
        (["retry", "--all", "--job", "1"], "say which failures"),
        (["dismiss", "--job", "999"], "there is no job 999"),
        (["jobs", "--watch", "--json"], "--watch draws a table"),
        (["status", "--watch", "--json"], "--watch draws tables"),
        (["delete"], "say what to delete"),
        (["delete", "--external-id", "a"], "--external-id with its --collection"),
        (["delete", "--orphans", "--item", "1"], "--orphans goes alone"),
        (["delete", "--item", "1", "--collection", "nope"], 'no collection named "nope"'),
        (["search", "a", "--where", "[]"], "--where must be a JSON object"),
        (["ingest", "/no/such/folder"], "there is no file or folder"),
    ],
)
def test_a_request_that_cannot_be_served(given: Cli, arguments: list[str], words: str) -> None:
    one_line(given(*arguments), 2, words)


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["jobs", "--limit", "many"], ["jobs", "--limit", "0"], ["cancel"], ["space", "index", "--x"]],
)
def test_a_command_line_that_does_not_parse(given: Cli, arguments: list[str]) -> None:
    ended = given(*arguments)
    assert ended.code == 2
    assert "Usage: sightline" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("chunk_slots", "0", "SIGHTLINE_CHUNK_SLOTS"),
        ("call_seconds", "soon", "SIGHTLINE_CALL_SECONDS"),
        ("log_level", "loud", "SIGHTLINE_LOG_LEVEL"),
        ("device", "gpu", "SIGHTLINE_DEVICE"),
        ("media_roots", "/data", "SIGHTLINE_MEDIA_ROOTS must be a JSON list"),
    ],
)
def test_a_bad_setting(given: Cli, name: str, value: str, words: str) -> None:
    one_line(given("jobs", **{name: value}), 3, words)


def test_a_home_that_is_a_file(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    one_line(cli("jobs", home=file), 3, "no embedded stack runs")
