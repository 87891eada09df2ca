"""Who leads, and what a leader may do that was away for longer than its lead lasts."""

from __future__ import annotations

import uuid

import psycopg
import pytest

from sightline.broker import Broker
from workers.database import connect
from workers.dispatcher import Dispatcher
from workers.outage import is_outage
from workers.queries import query

LEADER, OTHER = uuid.uuid4(), uuid.uuid4()


@pytest.fixture(scope="module", autouse=True)
def _work(database_url: str, space: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        for worker in (LEADER, OTHER):
            connection.execute(
                "insert into sightline.worker (worker_id, name, pid, slots, free_slots, queues) values (%s, 'w', 1, 2, 2, '{encode}')",
                (worker,),
            )
        connection.execute("select sightline.submit('encode', '{}', 'c', '[{\"text\": \"a\"}]')")


def turn(database_url: str, broker: Broker, worker: uuid.UUID) -> None:
    """What a dispatcher does at its start, and each `poll_seconds`."""
    dispatcher = Dispatcher(database_url, broker, worker, 5.0, 0.2, 30.0)
    dispatcher._turn()
    assert dispatcher._connection is not None
    dispatcher._connection.close()


def test_a_frozen_leader_takes_and_sweeps_nothing_after_its_lease(database_url: str) -> None:
    with connect(database_url) as connection:
        arguments = {"worker_id": LEADER, "seconds": 0.2, "lease": 60, "per_slot": 4, "max_attempts": 3}
        assert connection.execute(query("lead"), arguments).fetchone()["lead"] is True  # type: ignore[index]
        connection.execute("select pg_sleep(0.3)")  # it was stopped, and goes on where it was
        assert connection.execute(query("take_unpublished"), arguments).fetchall() == []
        assert connection.execute(query("sweep"), arguments).fetchall() == []
        assert connection.execute("select from sightline.chunk where published_at is not null").fetchall() == []


def test_one_leads_and_the_next_one_follows_when_it_is_gone(
    database_url: str, connection: psycopg.Connection, broker: Broker
) -> None:
    connection.execute("delete from sightline.leader")
    turn(database_url, broker, LEADER)
    assert broker.waiting("encode") == 1
    connection.execute("update sightline.chunk set published_at = null")
    turn(database_url, broker, OTHER)
    assert broker.waiting("encode") == 1
    connection.execute("update sightline.leader set lease_until = clock_timestamp()")
    turn(database_url, broker, OTHER)
    assert broker.waiting("encode") == 2


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (psycopg.OperationalError("server closed the connection unexpectedly"), True),
        (psycopg.errors.AdminShutdown(), True),
        (psycopg.errors.CannotConnectNow(), True),
        (psycopg.errors.TooManyConnections(), True),
        (psycopg.errors.DiskFull(), True),
        (psycopg.errors.ReadOnlySqlTransaction(), True),
        (psycopg.errors.QueryCanceled(), False),
        (psycopg.errors.LockNotAvailable(), False),
        (psycopg.errors.ForeignKeyViolation(), False),
        (psycopg.errors.NumericValueOutOfRange(), False),
        (ValueError(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_outage_is_told_from_an_error_of_the_statement(error: Exception, away: bool) -> None:
    assert is_outage(error) is away
