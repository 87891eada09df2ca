"""The database server: versions, schema, and the memory that index builds and searches have."""

from __future__ import annotations

import shutil
from typing import Any

import psycopg

from sightline.doctor.check import Check, fail, ok, size, warn
from sightline.migrate import MIN_PGVECTOR
from sightline.revision import difference, stored_revision
from sightline.space import build_memory_limit

Connection = psycopg.Connection[Any]

MIN_POSTGRES = 15
"""Views with `security_invoker` came with it."""
LARGE_ROWS = 50_000
"""From so many vectors on the time of a build is worth a word."""
_MIB = 2**20


def _one(connection: Connection, query: str) -> tuple[Any, ...]:
    row = connection.execute(query).fetchone()
    assert row is not None
    return tuple(row)


def check_server(connection: Connection) -> list[Check]:
    """Version of Postgres and of pgvector, and autovacuum."""
    number, version = _one(
        connection, "select current_setting('server_version_num')::int, current_setting('server_version')"
    )
    found = [
        ok("Postgres", f"version {version}")
        if number // 10000 >= MIN_POSTGRES
        else fail("Postgres", f"version {version}", f"sightline needs {MIN_POSTGRES} or newer")
    ]
    found.append(_pgvector(connection))
    (autovacuum,) = _one(connection, "select current_setting('autovacuum')")
    found.append(
        ok("autovacuum", "on")
        if autovacuum == "on"
        else warn(
            "autovacuum",
            "off: the ledger's tables and the indexes grow without end",
            "alter system set autovacuum = on",
        )
    )
    return found


def _pgvector(connection: Connection) -> Check:
    installed, available = _one(
        connection,
        "select (select extversion from pg_extension where extname = 'vector'), "
        "(select default_version from pg_available_extensions where name = 'vector')",
    )
    needed = ".".join(map(str, MIN_PGVECTOR))
    if available is None:
        return fail("pgvector", "not installed on the server", f"install it there, {needed} or newer")
    if installed is None:
        return fail("pgvector", f"{available} is there, but not in this database", "run `sightline migrate`")
    if _version(installed) < MIN_PGVECTOR:
        return fail(
            "pgvector",
            f"version {installed}: before {needed} HNSW indexes can be corrupted",
            "upgrade the package on the server, then: alter extension vector update",
        )
    if _version(available) > _version(installed):
        return warn("pgvector", f"version {installed}; the server has {available}", "alter extension vector update")
    return ok("pgvector", f"version {installed}")


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def is_migrated(connection: Connection) -> bool:
    """Whether the schema is the one that the other checks read, and whether they may."""
    try:
        return difference(stored_revision(connection)) is None
    except psycopg.errors.InsufficientPrivilege:
        return False  # check_schema says so


def check_schema(connection: Connection) -> list[Check]:
    """The schema's revision."""
    try:
        stored = stored_revision(connection)
    except psycopg.errors.InsufficientPrivilege:
        return [
            fail(
                "schema",
                f"user {connection.info.user} may not read it, so the rest cannot be looked at",
                "look as the owner, or as a user with the role sightline_reader",
            )
        ]
    problem = difference(stored)
    if problem is None:
        return [ok("schema", f"revision {stored}")]
    what, _, advice = problem.rpartition(": ")
    return [fail("schema", what, advice)]


def check_memory(connection: Connection) -> list[Check]:
    """Memory of index builds and searches, against the largest space; and shared memory, where it can be seen."""
    name, rows, need = _largest_space(connection)
    limit = build_memory_limit(connection)
    shared, work, workers, kind = _one(
        connection,
        "select pg_size_bytes(current_setting('shared_buffers')), pg_size_bytes(current_setting('work_mem')), "
        "current_setting('max_parallel_maintenance_workers')::int, current_setting('dynamic_shared_memory_type')",
    )
    (indexes,) = _one(
        connection,
        "select coalesce(sum(pg_relation_size(c.oid)), 0)::bigint from pg_class c join pg_am a on a.oid = c.relam "
        "where a.amname = 'hnsw' and c.relnamespace = 'sightline'::regnamespace",
    )
    largest = f"the largest space, {name}, needs {size(need)}" if name else "no space has vectors yet"
    return [
        ok("maintenance_work_mem", f"{largest}; a build may take {size(limit)}")
        if need <= limit
        else warn(
            "maintenance_work_mem",
            f"{largest} to build its index in memory; a build may take {size(limit)}, beyond that it slows down much",
            f"alter system set maintenance_work_mem = '{-(-need // _MIB)}MB'; select pg_reload_conf()",
        ),
        ok("shared_buffers", f"{size(shared)}; HNSW indexes have {size(indexes)}")
        if indexes <= shared
        else warn(
            "shared_buffers",
            f"{size(shared)}; HNSW indexes have {size(indexes)}: searches read the rest from the disk",
            "a quarter of the machine's memory is usual: alter system set shared_buffers, then restart Postgres",
        ),
        ok("work_mem", size(work))
        if work >= 4 * _MIB
        else warn("work_mem", f"{size(work)}: filtered searches stop early", "alter system set work_mem = '16MB'"),
        ok("max_parallel_maintenance_workers", str(workers))
        if workers or rows < LARGE_ROWS
        else warn(
            "max_parallel_maintenance_workers",
            f"0: the index of {name} ({rows:,} vectors) is built by one process",
            "alter system set max_parallel_maintenance_workers = 2 (or more, if the server has the cores)",
        ),
        check_shared_memory(_is_local(connection), kind, need=min(need, limit), parallel=workers > 0),
    ]


def _largest_space(connection: Connection) -> tuple[str | None, int, int]:
    """Name, vectors, and bytes of an in-memory build, of the space that needs most; by statistics, not by counting."""
    row = connection.execute(
        """
        select name, rows, (1.3 * rows * (8 + 2 * dim + 2 * 16 * 8))::bigint as need
        from (
          select s.name, s.dim, case when c.reltuples > 0 then c.reltuples::bigint else (
            select count(*) from (select from sightline.embedding e where e.space_id = s.space_id limit 100000) few
          ) end as rows
          from sightline.space s join pg_class c on c.oid = to_regclass('sightline.embedding_s' || s.space_id)
        ) spaces
        where rows > 0 order by need desc limit 1
        """
    ).fetchone()
    return (None, 0, 0) if row is None else (row[0], row[1], row[2])


def _is_local(connection: Connection) -> bool:
    """Whether the server shares this machine: a unix socket, or a loopback address as the server sees it too."""
    if connection.info.host.startswith("/"):
        return True
    (address,) = _one(connection, "select host(inet_server_addr())")
    return address in ("127.0.0.1", "::1")


def check_shared_memory(local: bool, kind: str, *, need: int, parallel: bool, path: str = "/dev/shm") -> Check:  # noqa: S108
    """A parallel index build puts the whole graph into one segment of shared memory (pgvector#453, #714)."""
    name = "shared memory"
    if not parallel or kind != "posix":
        return ok(
            name, f"builds do not use /dev/shm ({'dynamic_shared_memory_type ' + kind if parallel else 'not parallel'})"
        )
    if not local:
        return ok(name, f"of another machine, cannot be seen from here; a build needs {size(need)} in its /dev/shm")
    try:
        free = shutil.disk_usage(path).free
    except OSError as error:
        return warn(name, f"{path} cannot be read: {error.strerror}", "mount a tmpfs there")
    if free < need:
        return warn(
            name,
            f"{size(free)} free in /dev/shm; a parallel build of the largest index needs {size(need)}, and ends in "
            "'No space left on device'",
            "enlarge it (docker run --shm-size, shm_size in compose), or set max_parallel_maintenance_workers = 0",
        )
    return ok(name, f"{size(free)} free in /dev/shm; the largest build needs {size(need)}")
