"""Points with a known geometry, for tests of plans and filters. No test calls them embeddings of anything."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import psycopg

DIM = 32


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def around(center: np.ndarray, n: int, spread: float, seed: int) -> np.ndarray:
    """n unit vectors near a direction."""
    return unit(center + np.random.default_rng(seed).normal(0, spread, (n, len(center))))


def store(
    connection: psycopg.Connection,
    space: str,
    collection: str,
    modality: str,
    points: np.ndarray,
    metadata: list[str] | None = None,
    groups: Sequence[str | None] | None = None,
) -> list[int]:
    """Store items with these vectors, metadata and group keys; returns their ids."""
    metadata, groups = metadata or ["{}"] * len(points), groups or [None] * len(points)
    source = "uri" if modality == "image" else "text"
    with connection.transaction():
        connection.execute("insert into sightline.collection (name) values (%s) on conflict do nothing", (collection,))
        ids = [
            row[0]
            for row in connection.execute(
                f"insert into sightline.item (collection_id, external_id, modality, {source}, metadata, group_key) "
                "select c.collection_id, %s || '-' || n, %s, 'file:///' || n, m::jsonb, g from sightline.collection c, "
                "unnest(%s::text[], %s::text[]) with ordinality u(m, g, n) where c.name = %s order by n returning item_id",
                (modality, modality, metadata, groups, collection),
            ).fetchall()
        ]
        space_id = connection.execute("select space_id from sightline.space where name = %s", (space,)).fetchone()[0]
        with connection.cursor().copy(
            "copy sightline.embedding (space_id, item_id, generation, norm, modality, vec) from stdin"
        ) as copy:
            for item_id, point in zip(ids, points, strict=True):
                copy.write_row((space_id, item_id, 1, 1.0, modality, "[" + ",".join(f"{x:.5f}" for x in point) + "]"))
    connection.execute("analyze sightline.item")
    connection.execute("analyze sightline.embedding")
    return ids


def literal(point: np.ndarray) -> str:
    return "[" + ",".join(f"{x:.5f}" for x in point) + "]"


def scans_of(connection: psycopg.Connection, query: str, *params: object) -> tuple[int, int]:
    """How often a statement searches the index of toy's images, and how often it reads their table from end to end.

    The counters of this connection's own transaction: what functions run inside shows itself, what others do does not.
    """
    counters = (
        "select pg_stat_get_xact_numscans('sightline.toy_image_hnsw'::regclass), pg_stat_get_xact_numscans(i.indrelid) "
        "from pg_index i where i.indexrelid = 'sightline.toy_image_hnsw'::regclass"
    )
    with connection.transaction():
        before = connection.execute(counters).fetchone()
        connection.execute(query, params)
        after = connection.execute(counters).fetchone()
    return after[0] - before[0], after[1] - before[1]
