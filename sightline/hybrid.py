"""Search by words and vectors together: `sightline.hybrid_search` asked from Python."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from sightline.database import Database
from sightline.query import vector_literal
from sightline.results import Hits, hits_of


def hybrid_hits(
    database: Database, space: str, text: str, vector: Sequence[float], *, k: int, collection: str | None,
    where: Mapping[str, Any] | None, modality: str, lang: str, notes: Iterable[str] = (),
) -> Hits:  # fmt: skip
    """The k items that captions, words and vectors agree on most; see `Sightline.search`.

    Args:
        vector: of the text, in that space.
        lang: language of the text, by which its words are stemmed.
        notes: what the vector does not show of the text.
    """
    told = list(notes)
    with database.statement() as connection:

        def hear(notice: psycopg.errors.Diagnostic) -> None:
            told.append(notice.message_primary or "")

        connection.add_notice_handler(hear)
        try:
            filters = None if where is None else Jsonb(dict(where))
            rows = _rows(connection, (space, text, vector_literal(vector), k, collection, filters, modality, lang))
        finally:
            connection.remove_notice_handler(hear)
    return hits_of(rows, told)


def _rows(connection: psycopg.Connection[Any], arguments: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    return connection.execute(
        "select n.item_id, n.external_id, n.score, n.distance, c.name, i.modality, i.metadata, i.text, i.uri, "
        "n.group_key, n.caption, n.recipe, n.status "
        "from sightline.hybrid_search(%s, %s, %s, %s, %s, %s, %s, %s) with ordinality n "
        "join sightline.item i on i.item_id = n.item_id "
        "join sightline.collection c on c.collection_id = i.collection_id order by n.ordinality",
        arguments,
    ).fetchall()
