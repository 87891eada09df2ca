"""Connections of a worker to Postgres."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.rows import DictRow, dict_row
from psycopg_pool import ConnectionPool

from sightline.database import check_connection
from workers.columns import register

Connection = psycopg.Connection[DictRow]
Pool = ConnectionPool[Connection]

_OPTIONS: dict[str, Any] = {
    "autocommit": True,
    "row_factory": dict_row,
    "prepare_threshold": None,  # a transaction-mode pooler may hand over another session at any time
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15000,  # ms; a dead peer is noticed within a lease
    "application_name": "sightline-worker",
}


def connect(database_url: str) -> Connection:
    """One connection of its own, for a thread that must not wait for the pool. Raises psycopg.OperationalError."""
    return psycopg.connect(database_url, **_OPTIONS)


def open_pool(database_url: str, size: int) -> Pool:
    """A pool of at most `size` connections that know pgvector's types; it connects in the background."""

    def check(connection: Connection) -> None:
        try:
            check_connection(connection)
        except psycopg.Error:
            # One dead connection means a restart that killed them all; the pool alone finds them one by one, with
            # pauses of 1, 2, 4 ... seconds between.
            pool.check()
            raise

    pool: Pool = ConnectionPool(
        database_url,
        connection_class=psycopg.Connection[DictRow],
        kwargs=_OPTIONS,
        configure=register,
        check=check,
        min_size=1,
        max_size=size,
        timeout=10.0,
        reconnect_timeout=10.0,
        name="sightline",
        open=True,
    )
    return pool
