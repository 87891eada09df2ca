"""What must hold in the ledger and in Redis, whatever fails: checked by the drills and by the ledger's state machine.

A breach is a sentence. `breaches` may be asked at any moment, in the middle of the work too; `settled_breaches` once all is
done. `census` counts what went in and what became of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import redis
from psycopg.rows import class_row

_NAME = re.compile(r"^-- name: (?:(always|settled) )?(\w+)\n", re.MULTILINE)
KOMBU_KEEPS = "_kombu.binding"
"""Sets of the queues' names, which kombu leaves. Everything else in Redis is a message, or expires."""


@dataclass(frozen=True)
class Census:
    """Items of some jobs. items_in = stored by them or before + failed + skipped + cancelled + pending."""

    items_in: int
    stored: int
    failed: int
    skipped: int
    cancelled: int
    pending: int
    duplicates: int
    lost: int


@cache
def _statements() -> dict[tuple[str, str], LiteralString]:
    parts = _NAME.split(Path(__file__).with_name("invariants.sql").read_text(encoding="utf-8"))
    return {(parts[n] or "", parts[n + 1]): parts[n + 2] for n in range(1, len(parts), 3)}


def breaches(connection: psycopg.Connection[Any], lease: float = 15.0, notice: float = 5.0) -> list[str]:
    """What is wrong at this moment, in one snapshot; empty when nothing is.

    Args:
        connection: with autocommit, or in a transaction that has read nothing yet.
        lease: seconds that a silent worker keeps its chunks.
        notice: seconds after the lease in which the sweeper must have taken them. A drill that has no dispatcher at
            work at the moment gives `float("inf")`.
    """
    return _run(connection, "always", lease + notice)


def settled_breaches(
    connection: psycopg.Connection[Any], broker: redis.Redis | None = None, prefix: str = "", lease: float = 15.0
) -> list[str]:
    """What is wrong once everything should be over: all of `breaches`, open work, lost items, and a Redis that is not empty."""
    found = breaches(connection, lease) + _run(connection, "settled", lease)
    return found + (redis_breaches(broker, prefix) if broker is not None else [])


def redis_breaches(broker: redis.Redis, prefix: str) -> list[str]:
    """Keys of sightline that are left in an idle Redis: messages that nobody took or acknowledged, and keys without an end."""
    left = []
    for key in broker.scan_iter(match=f"{prefix}*", count=1000):
        name = key.decode().removeprefix(prefix)
        if not name.startswith(KOMBU_KEEPS) and broker.ttl(key) == -1:
            kind = broker.type(key).decode()
            left.append(f"Redis still holds {name} ({kind})")
    return sorted(left)


def census(connection: psycopg.Connection[Any], job_ids: Sequence[int] | None = None) -> Census:
    """Count the items of jobs, by default of all."""
    with connection.cursor(row_factory=class_row(Census)) as cursor:
        ids = None if job_ids is None else list(job_ids)
        row = cursor.execute(_statements()["", "census"], {"job_ids": ids}).fetchone()
    assert row is not None
    return row


def _run(connection: psycopg.Connection[Any], when: str, longest: float) -> list[str]:
    # Half a century stands for ever: an interval has no infinity before Postgres 17.
    parameters = {"longest": timedelta(seconds=min(longest, 1.5e9))}
    found = []
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read, read only")
        for (group, name), statement in _statements().items():
            if group == when:
                given = parameters if "%(" in statement else None  # without any, the % of format() is left alone
                found += [f"{name}: {line}" for (line,) in connection.execute(statement, given).fetchall()]
    return found
