"""Whether a pooler such as PgBouncer stands before Postgres, and whether it hands sessions around.

Found out by what a session sees, for a pooler may answer under any name: libpq's process id is the pooler's invention,
and in transaction mode others get the server process of a client that is idle.
"""

from __future__ import annotations

import threading
from typing import Any, Literal

import psycopg

from sightline.doctor.check import Check, fail, ok, warn

Mode = Literal["none", "session", "transaction", "statement", "unknown"]

_SECONDS = 3.0
_HOLDERS = 4
"""Clients that take a server each; a pool that hands servers out in turn has others to give before the first one's."""


def check_pooler(database_url: str) -> list[Check]:
    """The pooler's mode and what does not work through it."""
    name = "pooler"
    mode = pooling_mode(database_url)
    if mode == "none":
        return [ok(name, "none: connections go to Postgres itself")]
    if mode == "session":
        return [ok(name, "there is one, in session mode")]
    if mode == "transaction":
        return [
            warn(
                name,
                "there is one, in transaction mode: fit for clients and workers, not for migrations and index builds",
                "run `sightline migrate` and `sightline space index` with a URL of Postgres itself",
            )
        ]
    if mode == "statement":
        return [fail(name, "there is one, in statement mode, which allows no transaction", "pool_mode = transaction")]
    return [
        warn(
            name, f"there is one, and it gave no second connection within {_SECONDS:g} s",
            "enlarge its pool (default_pool_size): each worker needs up to 14 connections",
        )
    ]  # fmt: skip


def pooling_mode(database_url: str) -> Mode:
    """How connections are shared. Raises psycopg.Error when not even the first one comes."""
    with psycopg.connect(database_url, autocommit=True, connect_timeout=10) as first:
        server = _server_pid(first)
        if server == first.info.backend_pid:
            return "none"
        holders: list[_Holder] = []
        try:
            for _ in range(_HOLDERS):
                holder = _Holder(database_url)
                holders.append(holder)
                if not holder.started.wait(_SECONDS) or holder.server is None:
                    break
                # In transaction mode one of them gets the idle server of the first, or leaves it another one.
                if holder.server == server or _server_pid(first) != server:
                    return "transaction"
            if holders[0].statement_mode:
                return "statement"
            return "unknown" if holders[0].server is None else "session"
        finally:
            first.close()  # in a pool of one the others wait for it
            for holder in holders:
                holder.finish()


def _server_pid(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute("select pg_backend_pid()").fetchone()
    assert row is not None
    return int(row[0])


class _Holder:
    """Another client, that keeps a transaction open, in a thread: in an exhausted pool it would wait for minutes."""

    def __init__(self, database_url: str) -> None:
        self.server: int | None = None
        self.statement_mode = False
        self.started = threading.Event()
        self._finish = threading.Event()
        self._url = database_url
        self._thread = threading.Thread(target=self._run, name="pooler-probe", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """End the transaction and the connection."""
        self._finish.set()
        self._thread.join(_SECONDS)

    def _run(self) -> None:
        try:
            with psycopg.connect(self._url, connect_timeout=10) as connection:
                self.server = _server_pid(connection)
                self.started.set()
                self._finish.wait()
        except psycopg.Error as error:
            self.statement_mode = "statement pooling" in str(error)
            self.started.set()
