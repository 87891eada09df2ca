"""What an ingest would do, before it does it: counts, bytes, hours and gigabytes. Writes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg.types.json import Jsonb

from sightline.content import Prepared
from sightline.database import Database
from sightline.ingest import batches, check_collection, count_items, prepare_stream
from sightline.item import Ingestible, expand
from sightline.progress import progress_bar
from sightline.settings import Settings
from sightline.space import bulk_advice

ITEM_BYTES, VECTOR_BYTES, INDEX_BYTES = 500, 200, 400
"""What a row takes beside its vector of 2 x dim bytes: item with its indexes, embedding with key, HNSW element."""
FEW = 500
"""Vectors whose insertion takes about a second: nothing to say about."""


@dataclass
class IngestPlan:
    """What an ingest would do.

    Args:
        new, changed, unchanged: items by their content; `unchanged` includes `updated`.
        updated: of unchanged content, but other metadata, group or source.
        duplicates: external ids that were given again.
        unreadable: items that would become failures; `problems` are the first of them.
        encode: items that need a vector: new, changed, and unchanged ones without one in the space.
        upload_files, upload_bytes: content to upload; at most, for equal files are uploaded once.
        items_per_second: of the space's recent work; None where it has none.
        hours: `encode` at that rate.
        gigabytes: that the database would grow by: rows, index and uploads.
        indexes: HNSW indexes that vectors would be inserted through.
        index_hours: what that insertion takes, if the rate above was measured without them.
        index_advice: what to do about it, see `bulk_advice`.
    """

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    updated: int = 0
    duplicates: int = 0
    unreadable: int = 0
    encode: int = 0
    upload_files: int = 0
    upload_bytes: int = 0
    items_per_second: float | None = None
    hours: float | None = None
    gigabytes: float = 0.0
    indexes: list[str] = field(default_factory=list)
    index_hours: float | None = None
    index_advice: str | None = None
    problems: list[dict[str, str]] = field(default_factory=list)


def plan_ingest(
    database: Database,
    settings: Settings,
    items: Ingestible | Iterable[Ingestible],
    *,
    collection: str,
    space: str,
    root: Path | None,
    progress: bool = False,
) -> IngestPlan:
    """Count what an ingest of the same arguments would do. Files that are not stored yet are not read."""
    check_collection(collection)
    plan = IngestPlan()
    encode = {"image": 0, "text": 0}
    prepared = prepare_stream(database, settings, collection, space, expand(items, root), read=False)
    with progress_bar("compared", enabled=progress, count=lambda: count_items(items)) as advance:
        for batch in batches(prepared, lambda one: len(one.blob or b"")):
            with database.transaction() as connection:
                _compare(connection, plan, encode, space, collection, batch)
            advance(len(batch))
    plan.encode = sum(encode.values())
    with database.transaction() as connection:
        _estimate(connection, plan, space)
    kinds = [modality for modality, count in encode.items() if count]
    advice = bulk_advice(database, space, plan.encode, modality=kinds[0] if len(kinds) == 1 else None)
    plan.indexes = advice.indexes if kinds else []
    if plan.encode > FEW and advice.insert_seconds is not None:
        plan.index_hours, plan.index_advice = advice.insert_seconds / 3600, advice.advice
    if settings.media_url:
        plan.gigabytes -= plan.upload_bytes / 1e9  # they do not go into the database
    return plan


def _compare(
    connection: psycopg.Connection,
    plan: IngestPlan,
    encode: dict[str, int],
    space: str,
    collection: str,
    batch: list[Prepared],
) -> None:
    errors = [one.spec for one in batch if "error" in one.spec]
    plan.unreadable += len(errors)
    for spec in errors[: max(0, 5 - len(plan.problems))]:
        plan.problems.append({"external_id": spec["external_id"]} | spec["error"])
    given = [one for one in batch if "error" not in one.spec]
    row = connection.execute(
        "select * from sightline.plan_items(%s, %s, %s)", (space, collection, Jsonb([one.spec for one in given]))
    ).fetchone()
    assert row is not None
    new, changed, unchanged, updated, images, texts = row
    plan.new += new
    plan.changed += changed
    plan.unchanged += unchanged
    plan.updated += updated
    plan.duplicates += len(given) - new - changed - unchanged
    encode["image"] += images
    encode["text"] += texts
    digests = [bytes.fromhex(one.spec["digest"]) for one in given if one.blob is not None]
    known = {
        digest
        for (digest,) in connection.execute("select digest from sightline.blob where digest = any(%s)", (digests,))
    }
    uploads = [one for one in given if one.size and not (one.blob and bytes.fromhex(one.spec["digest"]) in known)]
    plan.upload_files += len(uploads)
    plan.upload_bytes += sum(one.size for one in uploads)


def _estimate(connection: psycopg.Connection, plan: IngestPlan, space: str) -> None:
    row = connection.execute("select s.dim, s.name from sightline.resolve_space(%s) s", (space,)).fetchone()
    assert row is not None
    dim, name = row
    grown = plan.new * ITEM_BYTES + (plan.encode - plan.changed) * (4 * dim + VECTOR_BYTES + INDEX_BYTES)
    plan.gigabytes = (grown + plan.upload_bytes) / 1e9
    plan.items_per_second = _recent_rate(connection, name)
    if plan.items_per_second:
        plan.hours = plan.encode / plan.items_per_second / 3600


def _recent_rate(connection: psycopg.Connection, space: str) -> float | None:
    """Items per second of a space's last 500 chunks, over the time in which at least one of them was running."""
    row = connection.execute(
        """
        with recent as (
          select c.n_done, tstzrange(c.claimed_at, c.finished_at) as ran from sightline.chunk c
          where c.chunk_id > (select max(chunk_id) from sightline.chunk) - 100000
            and c.space_id = (select space_id from sightline.resolve_space(%s)) and c.state = 'done' and c.n_done > 0
          order by c.chunk_id desc limit 500
        ), busy as (
          select sum(extract(epoch from upper(r) - lower(r))) as seconds
          from (select unnest(range_agg(ran)) as r from recent) u
        )
        select (select sum(n_done) from recent) / nullif(busy.seconds, 0) from busy
        """,
        (space,),
    ).fetchone()
    return float(row[0]) if row is not None and row[0] is not None else None
