"""One embedded Postgres and Redis for each test run; each module has a database of its own, cloned from a migrated one."""

from __future__ import annotations

import itertools
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from sightline.client import Sightline
from sightline.embedded.stack import EmbeddedStack
from sightline.migrate import migrate
from sightline.settings import Settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs so, and the processes that tests start would ignore Ctrl-C too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

for _name in [name for name in os.environ if name.startswith("SIGHTLINE_")]:
    del os.environ[_name]  # a developer's own settings do not reach the tests

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as many processes as cores run tests already

_numbers = itertools.count(1)


def _with_database(url: str, name: str) -> str:
    head, _, options = url.partition("?")
    return f"{head.rsplit('/', 1)[0]}/{name}?{options}"


@pytest.fixture(scope="session")
def stack() -> Iterator[EmbeddedStack]:
    with tempfile.TemporaryDirectory(prefix="sightline-tests-") as folder:
        Path(folder).chmod(0o755)
        with EmbeddedStack(Path(folder) / "home", durable=False) as running:
            yield running


@pytest.fixture(scope="session")
def template(stack: EmbeddedStack) -> str:
    """The name of a migrated database to clone."""
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        connection.execute("create database template_migrated")
    migrate(_with_database(stack.database_url, "template_migrated"))
    return "template_migrated"


def make_database(stack: EmbeddedStack, template: str) -> str:
    """A new migrated database; returns its DSN."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        connection.execute(f"create database {name} template {template}")
    return _with_database(stack.database_url, name)


@pytest.fixture(scope="module")
def database_url(stack: EmbeddedStack, template: str) -> str:
    return make_database(stack, template)


@pytest.fixture(scope="module")
def redis_url(stack: EmbeddedStack) -> str:
    return stack.redis_url


@pytest.fixture(scope="module")
def settings(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings whose Redis keys no other module uses."""
    return Settings(home=tmp_path_factory.mktemp("home"), key_prefix=f"{conninfo_to_dict(database_url)['dbname']}:")


@pytest.fixture(scope="module")
def client(database_url: str, redis_url: str, settings: Settings) -> Iterator[Sightline]:
    with Sightline(database_url, redis_url, settings=settings) as opened:
        yield opened


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as opened:
        yield opened
