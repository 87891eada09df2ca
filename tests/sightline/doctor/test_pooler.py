"""The pooler's mode is found out through a real PgBouncer."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest
from pydantic import SecretStr

from sightline.doctor import examine
from sightline.doctor.pooler import check_pooler, pooling_mode
from sightline.settings import Settings
from tests.pgbouncer import pgbouncer

needs_pgbouncer = pytest.mark.skipif(
    shutil.which("pgbouncer") is None, reason="no pgbouncer here (Debian: apt-get install pgbouncer)"
)

Bouncer = Callable[..., str]


@pytest.fixture
def bouncer(database_url: str) -> Iterator[Bouncer]:
    """Start a PgBouncer in front of the test's database; returns its URL."""
    with contextlib.ExitStack() as started:
        yield lambda mode, **settings: started.enter_context(pgbouncer(database_url, mode, **settings))


def test_no_pooler_is_none(database_url: str) -> None:
    assert pooling_mode(database_url) == "none"
    assert check_pooler(database_url)[0].state == "ok"


@needs_pgbouncer
@pytest.mark.parametrize(("mode", "state"), [("session", "ok"), ("transaction", "warn"), ("statement", "fail")])
def test_each_mode_of_pgbouncer_is_told_apart(bouncer: Bouncer, mode: str, state: str) -> None:
    url = bouncer(mode)
    for _ in range(3):  # whatever connections the pool has by then
        assert pooling_mode(url) == mode
    assert check_pooler(url)[0].state == state


@needs_pgbouncer
def test_transactions_on_servers_taken_in_turn_are_told_too(bouncer: Bouncer) -> None:
    url = bouncer("transaction", server_round_robin=1, min_pool_size=3)
    with psycopg.connect(url) as one, psycopg.connect(url) as two:
        one.execute("select")
        two.execute("select")
    assert pooling_mode(url) == "transaction"


@needs_pgbouncer
def test_everything_else_is_looked_at_through_a_pooler_too(bouncer: Bouncer, redis_url: str) -> None:
    settings = Settings(database_url=SecretStr(bouncer("transaction")), redis_url=SecretStr(redis_url))
    found = {}
    for check in examine(settings):
        found[check.name] = check.state
        if check.name == "clocks":
            break  # what comes after does not ask the database
    assert {name for name, state in found.items() if state != "ok"} == {"pooler", "workers"}
    assert len(found) > 15


@needs_pgbouncer
def test_a_pool_of_one_does_not_hang_the_doctor(bouncer: Bouncer) -> None:
    url = bouncer("session", default_pool_size=1)
    began = time.monotonic()
    (check,) = check_pooler(url)
    assert check.state == "warn"
    assert "default_pool_size" in check.advice
    assert time.monotonic() - began < 20
