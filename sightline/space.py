"""Embedding spaces: creating them from a model's passport, aliases, and their indexes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from sightline.database import Database
from sightline.errors import UsageError
from sightline.model import read_passport

DEFAULT_SPACE = "scenes"
DEFAULT_ALIAS = "current"
BUNDLED_MODEL = "bundled"


@dataclass(frozen=True)
class IndexStatus:
    """The HNSW index of one modality of a space."""

    index: str
    modality: str
    state: str  # ready, building, invalid or none
    rows: int
    index_bytes: int | None
    build_memory: int
    """Bytes of maintenance_work_mem that an in-memory build needs (about 1.3 x rows x (8 + 2 dim + 2 x 16 x 8))."""
    memory_limit: int
    """Bytes that a build gets here at most, see `build_memory_limit`; one that needs more is many times slower."""
    progress: float | None  # of a build that runs, 0 to 1


@dataclass(frozen=True)
class BulkAdvice:
    """What storing many vectors in a space takes, through its HNSW indexes or by dropping and building them.

    Args:
        indexes: that are there; all that follows is None without one.
        rows_per_second: through them.
        measured: of how many stored vectors that is the rate; 0: it is the usual one of the dimension.
        insert_seconds: of all, through the indexes.
        build_seconds: of the indexes, over what is stored and all of these.
        drop_first: building is the faster way, and insertion takes over a minute.
        advice: all that in a sentence, with the commands.
    """

    indexes: list[str]
    rows_per_second: float | None
    measured: int | None
    insert_seconds: float | None
    build_seconds: float | None
    drop_first: bool | None
    advice: str


def bulk_advice(database: Database, space: str, vectors: int, *, modality: str | None = None) -> BulkAdvice:
    """What it takes to store so many vectors in a space. Needs no right but a reader's or a producer's.

    Args:
        space: name or alias.
        modality: of the vectors; None for both.

    Raises:
        RequestRefused: no such space, or it does not have the modality.
    """
    with database.transaction() as connection, connection.cursor(row_factory=class_row(BulkAdvice)) as cursor:
        row = cursor.execute("select * from sightline.bulk_advice(%s, %s, %s)", (space, vectors, modality)).fetchone()
    assert row is not None
    return row


def create_space(
    database: Database,
    name: str,
    model: str,
    *,
    revision: str | None = None,
    pool: str | None = None,
    alias: str | None = None,
) -> int:
    """Create a space for a model and its typed views; an existing one with the same passport is left as it is.

    Args:
        database: of the owner of the schema.
        name: lower case; also names the views `<name>_image` and `<name>_text`.
        model: Hugging Face id, folder, or `bundled`.
        revision: of the Hugging Face repository.
        pool: name of the workers that hold the model; their queue is `encode.<pool>`.
        alias: point this alias to the space.

    Raises:
        RequestRefused: the name is taken by a space with another passport; the message says in what they differ.
        ServiceMissing: the model cannot be loaded.
    """
    with database.transaction() as connection:  # before the model is fetched and read
        for what, given in (("space", name), ("pool", pool), ("alias", alias)):
            if given is not None:
                connection.execute("select sightline.check_name(%s, %s)", (what, given))
    passport = read_passport(model, revision)
    with database.transaction() as connection:
        row = connection.execute(
            "select sightline.create_space(%s, %s, %s, %s, %s, %s, %s)",
            (name, passport["model"], passport["dim"], Jsonb(passport), revision, passport["modalities"], pool),
        ).fetchone()
        assert row is not None
        if alias is not None:
            connection.execute("select sightline.alias_space(%s, %s)", (alias, name))
    return int(row[0])


def ensure_default_space(database: Database, model: str | None) -> str:
    """The name of the space that alias `current` means; made from `model` (default: bundled) when there is none."""
    with database.transaction() as connection:
        row = connection.execute(
            "select s.name from sightline.space_alias a join sightline.space s using (space_id) where a.alias = %s",
            (DEFAULT_ALIAS,),
        ).fetchone()
    if row is not None:
        return str(row[0])
    name = DEFAULT_SPACE if model is None else space_name(model)
    create_space(database, name, model or BUNDLED_MODEL, alias=DEFAULT_ALIAS)
    return name


def space_name(model: str) -> str:
    """A name for the space of a model: openai/clip-vit-base-patch32 -> clip_vit_base_patch32."""
    last = model.rstrip("/").rsplit("/", 1)[-1].lower()
    cleaned = "".join(char if char.isascii() and char.isalnum() else "_" for char in last).strip("_")[:40]
    return cleaned if cleaned[:1].isalpha() else f"m_{cleaned}"[:40]


def index_space(
    database: Database, name: str, *, rebuild: bool = False, on_progress: Callable[[str, float], None] | None = None
) -> list[str]:
    """Build the HNSW index of each modality of a space, without locking out reads or writes. Returns the indexes built.

    An index that is there is left alone, unless it is invalid (a build that broke off) or `rebuild` is set.

    Args:
        database: of the owner of the schema.
        name: name or alias of the space.
        rebuild: build anew, the old index serving until the new one is ready.
        on_progress: called twice a second with the name of the index and the share that is done.
    """
    built = []
    with database.autocommit() as connection:
        for status in index_status(database, name):
            if status.state == "ready" and not rebuild:
                continue
            if status.state == "building":
                raise UsageError(
                    f"{status.index} is being built by another session: sightline space index {name} --status"
                )
            # A build that does not fit the setting drops to a path many times slower; a cap keeps the server alive.
            memory = min(max(status.build_memory, 64 * 2**20), build_memory_limit(connection))
            connection.execute(sql.SQL("set maintenance_work_mem = {}").format(sql.Literal(f"{memory // 1024}kB")))
            began = time.monotonic()
            with _watched(database, name, status.index, on_progress):
                _build(connection, name, status)
            connection.execute(
                "insert into sightline.index_build (space_id, modality, vectors, seconds) "
                "select s.space_id, %s, %s, %s from sightline.resolve_space(%s) s",
                (status.modality, status.rows, max(time.monotonic() - began, 0.001), name),
            )
            built.append(status.index)
    return built


def build_memory_limit(connection: psycopg.Connection[Any]) -> int:
    """Bytes that an index build may take: 2 GiB, or the server's maintenance_work_mem where an operator allows more."""
    row = connection.execute("select reset_val::bigint * 1024 from pg_settings where name = 'maintenance_work_mem'")
    (configured,) = row.fetchone() or (0,)
    return max(2 * 2**30, int(configured))


def drop_indexes(database: Database, name: str) -> list[str]:
    """Drop the HNSW indexes of a space, before a bulk load; searches are exact and slow until they are built again.

    Reads and writes go on meanwhile. Returns the indexes that were dropped.
    """
    found = [status for status in index_status(database, name) if status.state != "none"]
    for status in found:
        if status.state == "building":
            raise UsageError(f"{status.index} is being built by another session: sightline space index {name} --status")
    with database.autocommit() as connection:
        for status in found:
            index = sql.Identifier("sightline", status.index)
            connection.execute(sql.SQL("drop index concurrently if exists {}").format(index))
    return [status.index for status in found]


def _build(connection: psycopg.Connection[Any], name: str, status: IndexStatus) -> None:
    index = sql.Identifier("sightline", status.index)
    if status.state == "ready":
        connection.execute(sql.SQL("reindex index concurrently {}").format(index))
        return
    if status.state == "invalid":
        connection.execute(sql.SQL("drop index concurrently {}").format(index))
    row = connection.execute(
        "select s.space_id, s.dim, (select nspname from pg_extension e join pg_namespace n on n.oid = e.extnamespace "
        "where extname = 'vector') from sightline.resolve_space(%s) s",
        (name,),
    ).fetchone()
    assert row is not None
    space_id, dim, schema = row
    connection.execute(
        sql.SQL(
            "create index concurrently {} on {} using hnsw ((vec::{}({})) {}) where slot = 0 and modality = {}"
        ).format(
            sql.Identifier(status.index),
            sql.Identifier("sightline", f"embedding_s{space_id}"),
            sql.Identifier(schema, "halfvec"),
            sql.Literal(dim),
            sql.Identifier(schema, "halfvec_cosine_ops"),
            sql.Literal(status.modality),
        )
    )


def index_status(database: Database, name: str) -> list[IndexStatus]:
    """The index of each modality of a space: its state, size, and the memory that a build needs."""
    with database.transaction() as connection, connection.cursor(row_factory=class_row(IndexStatus)) as cursor:
        return cursor.execute(
            """
            with target as (
              select s.space_id, s.dim, m.modality, format('%%s_%%s_hnsw', s.name, m.modality) as index
              from sightline.resolve_space(%s) s cross join lateral unnest(s.modalities) m(modality)
            )
            select t.index, t.modality, n.rows, pg_relation_size(c.oid) as index_bytes,
                   case when c.oid is null then 'none' when p.pid is not null then 'building'
                        when i.indisvalid then 'ready' else 'invalid' end as state,
                   (1.3 * n.rows * (8 + 2 * t.dim + 2 * 16 * 8))::bigint as build_memory,
                   greatest(2147483648, (select s.reset_val::bigint * 1024 from pg_settings s
                                         where s.name = 'maintenance_work_mem')) as memory_limit,
                   -- pgvector tells blocks. Before them little is done; after them what changed since is looked at.
                   case when p.pid is null then null
                        when p.phase like '%%loading tuples%%' then p.blocks_done::float / greatest(1, p.blocks_total)
                        when p.phase ~ '^index validation|snapshots' then 1.0 else 0.0 end as progress
            from target t
            cross join lateral (select count(*) as rows from sightline.embedding e
                                where e.space_id = t.space_id and e.slot = 0 and e.modality = t.modality) n
            left join pg_class c on c.relname = t.index and c.relnamespace = 'sightline'::regnamespace
            left join pg_index i on i.indexrelid = c.oid
            left join pg_class again on again.relname = t.index || '_ccnew' and again.relnamespace = c.relnamespace
            left join pg_stat_progress_create_index p on p.index_relid in (c.oid, again.oid)  -- the latter is a rebuild
            order by t.modality
            """,
            (name,),
        ).fetchall()


@contextmanager
def _watched(
    database: Database, name: str, index: str, on_progress: Callable[[str, float], None] | None
) -> Iterator[None]:
    """Report the progress of a build while the body runs it."""
    if on_progress is None:
        yield
        return
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            for status in index_status(database, name):
                if status.index == index and status.progress is not None:
                    on_progress(index, status.progress)

    thread = threading.Thread(target=watch, name="index-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    on_progress(index, 1.0)


def spaces_to_index(database: Database, min_rows: int = 1000) -> list[str]:
    """Spaces with at least `min_rows` vectors of a modality that has no valid index, and with no open work.

    Below that an exact scan is as fast as the graph.
    """
    with database.transaction() as connection:
        rows = connection.execute(
            """
            select distinct s.name from sightline.space s cross join lateral unnest(s.modalities) m(modality)
            where not exists (select from pg_class c join pg_index i on i.indexrelid = c.oid
                              where c.relname = format('%%s_%%s_hnsw', s.name, m.modality)
                                and c.relnamespace = 'sightline'::regnamespace and i.indisvalid)
              and not exists (select from sightline.chunk c
                              where c.space_id = s.space_id and c.state in ('queued', 'running'))
              and exists (select from sightline.embedding e
                          where e.space_id = s.space_id and e.slot = 0 and e.modality = m.modality offset %s)
            """,
            (min_rows - 1,),
        ).fetchall()
    return [name for (name,) in rows]
