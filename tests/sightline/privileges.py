"""Who may do what in the schema, a line each: `python -m tests.sightline.privileges > tests/sightline/privileges.golden.txt`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import psycopg

from sightline.embedded.stack import EmbeddedStack
from sightline.migrate import migrate

ROLES = ["public", "sightline_reader", "sightline_producer", "sightline_worker"]

# What the owner may, who may everything, is left out. A function that acts with the owner's rights is marked.
_RIGHTS = """
with role as (select unnest(%(roles)s::text[]) as role),
relation as (
  select r.role, c.relname::text as name, string_agg(p.may, ' ' order by p.n) as rights
  from role r cross join pg_class c
  cross join lateral unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger', 'maintain'])
    with ordinality p(may, n)
  where c.relnamespace = 'sightline'::regnamespace and c.relkind in ('r', 'p', 'v', 'm') and has_table_privilege(r.role, c.oid, p.may)
  group by 1, 2
), schema as (
  select r.role, 'schema sightline' as name, string_agg(p.may, ' ' order by p.may) as rights
  from role r cross join unnest(array['usage', 'create']) p(may) where has_schema_privilege(r.role, 'sightline', p.may) group by 1
), routine as (
  select r.role, p.proname || '()' as name, 'execute' || case when bool_or(p.prosecdef) then ' as the owner' else '' end as rights
  from role r cross join pg_proc p
  where p.pronamespace = 'sightline'::regnamespace and has_function_privilege(r.role, p.oid, 'execute') group by 1, 2
), sequence as (
  select r.role, 'sequence ' || c.relname as name, string_agg(p.may, ' ' order by p.may) as rights
  from role r cross join pg_class c cross join unnest(array['usage', 'select', 'update']) p(may)
  where c.relnamespace = 'sightline'::regnamespace and c.relkind = 'S' and has_sequence_privilege(r.role, c.oid, p.may) group by 1, 2
)
select replace(role, 'sightline_', '') || ': ' || name || ': ' || rights
from (table schema union all table relation union all table routine union all table sequence) u order by role, name collate "C"
"""


def rights(connection: psycopg.Connection) -> list[str]:
    """A line for each role and object: `reader: item: select`."""
    return [line for (line,) in connection.execute(_RIGHTS, {"roles": ROLES})]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        with EmbeddedStack(Path(folder) / "home", durable=False) as stack:
            migrate(stack.database_url)
            with psycopg.connect(stack.database_url) as opened:
                sys.stdout.write("".join(f"{line}\n" for line in rights(opened)))
