"""Connections to Postgres: the client's own pool, and those that a caller lends."""

from __future__ import annotations

import select
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeAlias

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool, PoolTimeout

from sightline.errors import RequestRefused, ServiceMissing, UsageError
from sightline.refusals import refusal
from sightline.revision import difference, stored_revision

if TYPE_CHECKING:
    import sqlalchemy
    from sqlalchemy.orm import Session

LentConnection: TypeAlias = "psycopg.Connection[Any] | sqlalchemy.Connection | Session"
"""A connection of the caller's, whose transaction sightline joins and never commits."""

_CONNECT_SECONDS = 10


class Database:
    """A pool of connections that opens on first use. Safe in threads."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._closed = False
        # No server-side prepared statements: a PgBouncer in transaction mode may stand in between.
        self._pool: ConnectionPool[psycopg.Connection[TupleRow]] = ConnectionPool(
            url, min_size=0, max_size=8, open=False, timeout=_CONNECT_SECONDS, reconnect_timeout=_CONNECT_SECONDS,
            check=check_connection,  # else each call after a restart of Postgres meets a dead one
            kwargs={"prepare_threshold": None, "connect_timeout": _CONNECT_SECONDS, "application_name": "sightline"},
        )  # fmt: skip

    def close(self) -> None:
        """Close all connections, for good."""
        self._closed = True
        self._pool.close()

    @contextmanager
    def transaction(self, lent: LentConnection | None = None) -> Iterator[psycopg.Connection[Any]]:
        """A connection in a transaction: one of the pool's, committed at the end, or inside the caller's, which is not.

        A lent connection in autocommit mode, outside any transaction, has nothing to join: it commits at the end.

        Raises:
            RequestRefused: the database refused a value; its message says which.
            ServiceMissing: the database cannot be reached, or was not migrated.
        """
        with translated_errors(self.url):
            if lent is not None:
                connection = driver_connection(lent)
                if not connection.autocommit and connection.info.transaction_status == TransactionStatus.IDLE:
                    connection.execute("select")  # begin: else the block below would be the outermost one and commit
                with connection.transaction():
                    yield connection
            else:
                self._open()
                with self._pool.connection() as connection:
                    yield connection

    @contextmanager
    def statement(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection of the pool's for a single statement, a transaction by itself: one round trip, not three.

        Raises as `transaction` does.
        """
        with translated_errors(self.url):
            self._open()
            with self._pool.connection() as connection:
                connection.autocommit = True
                try:
                    yield connection
                finally:
                    if not connection.closed:
                        connection.autocommit = False

    def _open(self) -> None:
        """Open the pool once; a first connection of its own tells at once, and in the server's words, what is wrong."""
        if self._closed:
            raise UsageError("this client is closed: make another one")
        if self._pool.closed:
            psycopg.connect(self.url, connect_timeout=_CONNECT_SECONDS).close()
            self._pool.open()

    @contextmanager
    def autocommit(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection of its own outside any transaction, as CREATE INDEX CONCURRENTLY needs it."""
        with (
            translated_errors(self.url),
            psycopg.connect(self.url, autocommit=True, connect_timeout=_CONNECT_SECONDS) as connection,
        ):
            yield connection


def check_connection(connection: psycopg.Connection[Any]) -> None:
    """Raise psycopg.Error if a connection of a pool was closed at its other end.

    There is nothing to be read from an open one that idles, and an end or a last word of the server where it is not:
    only then it is asked, which takes a round trip.
    """
    idle = select.poll()
    idle.register(connection.fileno(), select.POLLIN)
    if idle.poll(0):
        ConnectionPool.check_connection(connection)


def driver_connection(lent: LentConnection) -> psycopg.Connection[Any]:
    """The psycopg connection below a caller's connection or session."""
    if isinstance(lent, psycopg.Connection):
        return lent
    # Imported here, for it takes as long as all the rest; whoever lends one of its connections has it loaded.
    import sqlalchemy
    from sqlalchemy.orm import Session

    if isinstance(lent, Session):
        lent = lent.connection()
    if isinstance(lent, sqlalchemy.Connection):
        if not lent.in_transaction():
            lent.begin()  # else SQLAlchemy would not know that there is something to commit
        driver = lent.connection.driver_connection
        if not isinstance(driver, psycopg.Connection):
            raise UsageError(f"the engine must use psycopg 3 (postgresql+psycopg://), not {type(driver).__module__}")
        return driver
    raise UsageError(f"connection must be of psycopg or SQLAlchemy, not {type(lent).__name__}")


@contextmanager
def translated_errors(url: str | None = None) -> Iterator[None]:
    """Turn the driver's errors into sightline's, each one line; messages keep the database's own words and hint.

    Args:
        url: of the database, to say what is wrong with its schema.
    """
    try:
        yield
    except PoolTimeout as error:
        raise ServiceMissing(f"Postgres cannot be reached: {error}") from error
    except (
        psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn, psycopg.errors.InvalidSchemaName,
        psycopg.errors.UndefinedFunction,
    ) as error:  # fmt: skip
        raise ServiceMissing(f"{_schema_problem(url)} ({_line(error)})") from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise ServiceMissing(
            f"the database user lacks a right: {_line(error)} (sightline_reader may search and look, "
            "sightline_producer submit and ingest; the rest is the owner's, who migrates)"
        ) from error
    except psycopg.errors.ReadOnlySqlTransaction as error:
        raise ServiceMissing(
            f"this Postgres takes no writes, a replica perhaps: {_line(error)}; use the primary's URL"
        ) from error
    except (psycopg.DataError, psycopg.IntegrityError, psycopg.ProgrammingError, psycopg.NotSupportedError) as error:
        if error.sqlstate is None:
            raise ServiceMissing(f"the database URL cannot be used: {' '.join(str(error).split())}") from error
        raise RequestRefused(refusal(error)) from error
    except psycopg.errors.DiskFull as error:
        raise ServiceMissing(
            f"Postgres has no disk space left ({error.diag.message_primary}): free some and run this again; "
            "what was stored stays"
        ) from error
    except psycopg.OperationalError as error:
        if error.sqlstate in ("42704", "55000", "P0002") or (error.sqlstate or "").startswith("54"):
            raise RequestRefused(str(error.diag.message_primary)) from error
        raise ServiceMissing(f"Postgres cannot be reached: {_line(error)}") from error


def _line(error: psycopg.Error) -> str:
    return " ".join((error.diag.message_primary or str(error)).split())


def _schema_problem(url: str | None) -> str:
    """Why our own statements name what is not there."""
    known = None
    if url is not None:
        with suppress(psycopg.Error), psycopg.connect(url, connect_timeout=_CONNECT_SECONDS) as connection:
            known = difference(stored_revision(connection))
    return known or "the database has no sightline schema, or another one than this version's: run `sightline migrate`"
