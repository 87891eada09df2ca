"""The clocks of this machine, the database and Redis."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

import psycopg
import redis

from sightline.doctor.check import Check, ok, warn

TOLERATED_SECONDS = 2.0


def check_clocks(database_url: str | None, broker: redis.Redis | None) -> list[Check]:
    """How far the servers' clocks are from this machine's, less half of the time that the question took."""
    offsets = {}
    if database_url is not None:
        with psycopg.connect(database_url, autocommit=True, connect_timeout=10) as connection:

            def of_database() -> float:
                row = connection.execute("select clock_timestamp()").fetchone()
                assert row is not None
                moment: datetime = row[0]
                return moment.timestamp()

            offsets["Postgres"] = _offset(of_database)
    if broker is not None:

        def of_redis() -> float:
            seconds, micros = broker.time()
            return int(seconds) + int(micros) / 1e6

        offsets["Redis"] = _offset(of_redis)
    return [judge(offsets)]


def judge(offsets: dict[str, float]) -> Check:
    """Leases go by the database's clock and deadlines by Redis': a skew breaks nothing, but times in logs mislead."""
    found = ", ".join(f"{server} {offset:+.2f} s" for server, offset in offsets.items()) or "no server to compare with"
    far = [server for server, offset in offsets.items() if abs(offset) > TOLERATED_SECONDS]
    if far:
        return warn("clocks", f"from this machine's: {found}", "run an NTP client (chrony) on each machine")
    return ok("clocks", f"from this machine's: {found}")


def _offset(ask: Callable[[], float]) -> float:
    ask()  # the first answer pays for the connection
    before = time.time()
    theirs = ask()
    return theirs - (before + time.time()) / 2
