"""The HNSW indexes of the spaces: missing, broken, or full of dead rows."""

from __future__ import annotations

from typing import Any

import psycopg

from sightline.doctor.check import Check, fail, ok, warn

LARGE = 10_000
"""From so many vectors of one modality on a search without an index is slow."""
DEAD_SHARE = 0.3

_INDEXES = """
select s.name, m.modality, i.indisvalid, p.pid is not null as building,
       exists (select from sightline.embedding e
               where e.space_id = s.space_id and e.slot = 0 and e.modality = m.modality offset %s) as large
from sightline.space s cross join lateral unnest(s.modalities) m(modality)
left join pg_class c on c.relname = format('%%s_%%s_hnsw', s.name, m.modality)
                    and c.relnamespace = 'sightline'::regnamespace
left join pg_index i on i.indexrelid = c.oid
left join pg_stat_progress_create_index p on p.index_relid = c.oid
order by 1, 2
"""

_DEAD = """
select relname, n_dead_tup, n_live_tup from pg_stat_user_tables
where schemaname = 'sightline' and n_dead_tup > 10000 and n_dead_tup > %s * (n_live_tup + n_dead_tup)
order by n_dead_tup desc
"""


def check_indexes(connection: psycopg.Connection[Any]) -> list[Check]:
    """Indexes that are missing on large spaces, or invalid; tables that vacuum does not keep up with."""
    found: list[Check] = []
    ready = 0
    for space, modality, valid, building, large in connection.execute(_INDEXES, (LARGE - 1,)).fetchall():
        name = f"index of {space} ({modality})"
        if building:
            found.append(ok(name, "is being built"))
        elif valid is False:
            found.append(
                fail(
                    name, "invalid: a build broke off; it costs each write and serves no search",
                    f"sightline space index {space}",
                )
            )  # fmt: skip
        elif valid is None and large:
            found.append(
                warn(
                    name,
                    f"missing, with {LARGE:,} vectors or more: searches read them all",
                    f"sightline space index {space}",
                )
            )
        ready += valid is True
    if not found:
        found.append(ok("indexes", f"{ready} ready, none is missing on a large space"))
    for table, dead, live in connection.execute(_DEAD, (DEAD_SHARE,)).fetchall():
        found.append(
            warn(
                f"table {table}", f"{dead:,} dead rows beside {live:,} live ones: autovacuum does not keep up",
                f"vacuum sightline.{table}; and look for a transaction that stays open (pg_stat_activity)",
            )
        )  # fmt: skip
    return found
