"""Delete items with all that was made of them, and uploaded content that nobody uses any more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any

from psycopg.rows import dict_row

from sightline.database import Database

BATCH = 1000
"""Items of one transaction."""


@dataclass(frozen=True)
class Deleted:
    """How much went: items (texts of captions included), vectors, captions, and uploaded contents with their bytes."""

    items: int = 0
    vectors: int = 0
    captions: int = 0
    blobs: int = 0
    bytes: int = 0

    def __add__(self, other: Deleted) -> Deleted:
        return Deleted(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


def count_items(
    database: Database, collection: str | None, external_ids: Sequence[str] | None, item_ids: Sequence[int] | None,
    older_than: timedelta | None,
) -> int:  # fmt: skip
    """How many items `delete_items` would take, without the texts that were made of them."""
    with database.transaction() as connection:
        row = connection.execute(
            "select count(*) from sightline.item i join sightline.collection c using (collection_id) "
            "where (%(collection)s::text is null or c.name = %(collection)s) "
            "and (%(external_ids)s::text[] is null or i.external_id = any (%(external_ids)s::text[])) "
            "and (%(item_ids)s::bigint[] is null or i.item_id = any (%(item_ids)s::bigint[])) "
            "and (%(older_than)s::interval is null or i.updated_at < clock_timestamp() - %(older_than)s::interval)",
            _which(collection, external_ids, item_ids, older_than),
        ).fetchone()
    return 0 if row is None else int(row[0])


def delete_items(
    database: Database, collection: str | None = None, external_ids: Sequence[str] | None = None,
    item_ids: Sequence[int] | None = None, older_than: timedelta | None = None,
    forget: Callable[[Sequence[bytes]], object] | None = None, on_progress: Callable[[int], object] | None = None,
) -> Deleted:  # fmt: skip
    """Delete in batches, each in a transaction of its own; broken off, it goes on where it was when it is called again.

    What `forget` raises of a batch says which content stays outside: the database knows of that batch no more.

    Args:
        database: of the owner of the schema.
        collection, external_ids, item_ids, older_than: which items; all that are given must hold.
        forget: called with digests of removed content that lies outside of the database.
        on_progress: called after each batch with the number of items that it deleted.

    Raises:
        RequestRefused: neither a collection nor item ids are given, or there is no such collection.
    """
    which = _which(collection, external_ids, item_ids, older_than) | {"most": BATCH}
    total = Deleted()
    while True:
        row = _row(
            database,
            "select * from sightline.delete_items(%(collection)s, %(external_ids)s::text[], %(item_ids)s::bigint[], "
            "%(older_than)s::interval, %(most)s)",
            which,
        )
        elsewhere = row.pop("elsewhere")
        if forget is not None and elsewhere:
            forget(elsewhere)
        if row["items"] == 0:
            return total
        total += Deleted(**row)
        if on_progress is not None:
            on_progress(row["items"])


def delete_orphans(database: Database, forget: Callable[[Sequence[bytes]], object] | None = None) -> Deleted:
    """Delete uploaded content that no item has used for a day."""
    total = Deleted()
    while True:
        row = _row(
            database,
            "select r.* from sightline.remove_blobs(array(select o.digest from sightline.orphans() o)) r",
            {},
        )
        elsewhere = row.pop("elsewhere")
        if forget is not None and elsewhere:
            forget(elsewhere)
        if row["blobs"] == 0:
            return total
        total += Deleted(**row)


def _which(
    collection: str | None, external_ids: Sequence[str] | None, item_ids: Sequence[int] | None,
    older_than: timedelta | None,
) -> dict[str, Any]:  # fmt: skip
    return {
        "collection": collection, "external_ids": None if external_ids is None else list(external_ids),
        "item_ids": None if item_ids is None else list(item_ids), "older_than": older_than,
    }  # fmt: skip


def _row(database: Database, query: str, params: dict[str, Any]) -> dict[str, Any]:
    with database.transaction() as connection, connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(query, params).fetchone()
    assert row is not None
    return row
