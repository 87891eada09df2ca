"""Connections of a worker to Postgres."""

from __future__ import annotations

from typing import Any

import psycopg
from alembic.config import Config
from alembic.script import ScriptDirectory
from pgvector.psycopg import register_vector
from psycopg.rows import DictRow, dict_row
from psycopg_pool import ConnectionPool

from sightline.errors import ServiceMissing
from sightline.migrate import migrations_folder

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
    """A pool of at most `size` connections that know pgvector's types.

    Raises:
        ServiceMissing: Postgres cannot be reached, or its schema is not the one that this worker is written for.
    """
    try:
        with connect(database_url) as connection:
            _check_schema(connection)
    except psycopg.OperationalError as error:
        raise ServiceMissing(f"Postgres cannot be reached: {' '.join(str(error).split())}") from error
    return ConnectionPool(
        database_url, connection_class=psycopg.Connection[DictRow], kwargs=_OPTIONS, configure=register_vector,
        min_size=1, max_size=size, timeout=10.0, open=True, name="sightline", check=ConnectionPool.check_connection,
        reconnect_timeout=10.0,
    )  # fmt: skip


def _check_schema(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    needed = ScriptDirectory.from_config(config).get_current_head()
    try:
        row = connection.execute("select version_num from sightline.migration").fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        row = None
    found = row["version_num"] if row else None
    if found != needed:
        raise ServiceMissing(
            f"the database is at schema revision {found or 'none'}, this worker needs {needed}: run `sightline migrate`"
        )
