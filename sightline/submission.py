"""The caller's transaction that a job was submitted in: whether it still stands."""

from __future__ import annotations

import weakref
from typing import Any

import psycopg
from psycopg import Cursor
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row


class Submission:
    """Remembers the transaction of a lent connection, right after a job was submitted in it.

    Whoever waits for a job before the commit is told so without asking another connection: behind a pooler whose
    connections are all in use that question would wait for this very transaction.

    Args:
        lent: the connection, in the transaction or, if it was in autocommit mode, outside any.
    """

    def __init__(self, lent: psycopg.Connection[Any]) -> None:
        self._lent = weakref.ref(lent)
        self._transaction = _transaction(lent)

    def stands(self) -> bool:
        """Whether that transaction has neither been committed nor rolled back. False for good once it has."""
        lent = self._lent()
        if self._transaction is None or lent is None or _transaction(lent) != self._transaction:
            self._transaction = None
        return self._transaction is not None


def _transaction(connection: psycopg.Connection[Any]) -> str | None:
    """The id of the transaction that a connection is in; None outside one, and of one that can only be rolled back."""
    if connection.closed or connection.info.transaction_status != TransactionStatus.INTRANS:
        return None
    with Cursor(connection, row_factory=tuple_row) as cursor:
        row = cursor.execute("select pg_current_xact_id_if_assigned()::text").fetchone()
    return row[0] if row else None
