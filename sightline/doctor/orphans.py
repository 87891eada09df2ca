"""Uploaded content that belongs to no item any more."""

from __future__ import annotations

from typing import Any

import psycopg

from sightline.doctor.check import Check, ok, size, warn

SECONDS = 10
MOST = 100_000


def check_orphans(connection: psycopg.Connection[Any]) -> list[Check]:
    """Content that no item has used for a day; looking for it takes ten seconds at most."""
    try:
        with connection.transaction():
            connection.execute(f"set local statement_timeout = '{SECONDS}s'")
            row = connection.execute(
                "select count(*), coalesce(sum(bytes), 0)::bigint from sightline.orphans(most => %s)", (MOST,)
            ).fetchone()
    except psycopg.errors.QueryCanceled:
        return [ok("uploads", f"not all looked at in {SECONDS} s: sightline delete --orphans finds those nobody uses")]
    count, total = row or (0, 0)
    if not count:
        return [ok("uploads", "all are used by an item, or younger than a day")]
    more = " or more" if count == MOST else ""
    found = f"{count:,}{more} uploaded contents ({size(total)}) belong to no item"
    return [warn("uploads", found, "sightline delete --orphans")]
