"""Is the database away, or does it object to what it was given?"""

from __future__ import annotations

import psycopg

_AWAY = ("08", "53", "57P", "25006")
"""SQLSTATEs, or how they begin: connection, resources (full disk, too many connections), shutdown, read-only server."""


def is_outage(error: BaseException) -> bool:
    """Whether the same statement works once the database is back. No attempt of anybody is spent on such an error.

    Without a SQLSTATE the connection broke, was refused or was not to be had in time.
    """
    if not isinstance(error, psycopg.Error):
        return False
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return error.sqlstate.startswith(_AWAY)
