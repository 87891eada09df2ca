"""Images with their captions as they are read for an export: page by page, in the order of their numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from sightline.database import Database

PAGE = 200
KeepBy = Literal["match", "alignment"]

# The caption to train on: the selected one, else the owner's, else that which matches best. Never a negative.
_MAIN = (
    "select v.text, v.{by} as score from sightline.captions v "
    "where v.item_id = i.item_id and not coalesce(v.negative, false) "
    "order by coalesce(v.selected, false) desc, v.recipe = 'own' desc, v.match desc nulls last, "
    "v.alignment desc nulls last, v.caption_id limit 1"
)
_CAPTIONS = (
    "select coalesce(jsonb_agg(to_jsonb(v) - '{item_id,collection,external_id,text_item_id}'::text[] "
    "order by v.caption_id nulls first), '[]') from sightline.captions v where v.item_id = i.item_id"
)
_KEY = "coalesce(encode(i.digest, 'hex'), c.name || '/' || i.external_id)"
_OF_COLLECTION = (
    "i.modality = 'image' and i.parent_id is null and (%(collection)s::text is null or c.name = %(collection)s)"
)
_FROM = (
    "from sightline.item i join sightline.collection c on c.collection_id = i.collection_id "
    f"where {_OF_COLLECTION} and i.item_id > %(after)s"
)


@dataclass(frozen=True)
class Row:
    """One image of the collection. `text` and `score` are those of the caption to train on, None without one."""

    item_id: int
    key: str
    text: str | None
    score: float | None
    about: dict[str, Any]


@dataclass(frozen=True)
class Threshold:
    """The last pair of the share that is kept, in the order of score and, where scores are equal, of a hash."""

    score: float
    tie: str

    def keeps(self, row: Row, seed: str) -> bool:
        """Whether a pair is in the share; one without a score is not."""
        if row.score is None:
            return False
        return row.score > self.score or (row.score == self.score and _tie(row.key, seed) <= self.tie)


def _tie(key: str, seed: str) -> str:
    return hashlib.md5(f"{seed}/{key}".encode(), usedforsecurity=False).hexdigest()  # as in SQL, where there is md5


class PairQuery:
    """The images of a collection, or of all, with their captions.

    Each page is a transaction of its own: an export of days holds up no vacuum, and goes on behind any image.
    """

    def __init__(self, database: Database, collection: str | None, keep_by: KeepBy) -> None:
        self._database, self._collection, self._by = database, collection, keep_by

    def count(self, after: int) -> int:
        """How many images lie behind an item's number."""
        with self._database.transaction() as connection:
            row = connection.execute(
                f"select count(*) {_FROM}", {"collection": self._collection, "after": after}
            ).fetchone()
        assert row is not None
        return int(row[0])

    def rows(self, after: int, *, captions: bool = True) -> Iterator[Row]:
        """All of them behind an item's number; `captions`: with all that is said of each."""
        about = _CAPTIONS if captions else "select null::jsonb"
        query = (
            f"select i.item_id, {_KEY}, m.text, m.score, ({about}), i.external_id, c.name, i.uri, "
            "encode(i.digest, 'hex'), i.generation, i.group_key, i.metadata "
            f"from (select i.* {_FROM} order by i.item_id limit %(page)s) i "
            "join sightline.collection c on c.collection_id = i.collection_id "
            f"left join lateral ({_MAIN.format(by=self._by)}) m on true order by i.item_id"
        )
        while True:
            with self._database.transaction() as connection:
                page = connection.execute(
                    query, {"collection": self._collection, "after": after, "page": PAGE}
                ).fetchall()
            for item_id, key, text, score, told, *item in page:
                names = ("external_id", "collection", "uri", "digest", "generation", "group_key", "metadata")
                yield Row(item_id, key, text, score, dict(zip(names, item, strict=True)) | {"captions": told or []})
            if len(page) < PAGE:
                return
            after = page[-1][0]

    def threshold(self, share: float, seed: str) -> Threshold | None:
        """The last pair of the best `share` of those that have a score; None where none has."""
        main = _MAIN.format(by=self._by)
        scored = (
            f"select m.score, md5(%(seed)s || '/' || {_KEY}) as tie from sightline.item i "
            f"join sightline.collection c on c.collection_id = i.collection_id cross join lateral ({main}) m "
            f"where {_OF_COLLECTION} and m.score is not null"
        )
        with self._database.transaction() as connection:
            row = connection.execute(
                f"with scored as ({scored}) select score, tie from scored order by score desc, tie "
                "offset (select greatest(ceil(count(*) * %(share)s::float8)::bigint, 1) - 1 from scored) limit 1",
                {"collection": self._collection, "seed": seed, "share": share},
            ).fetchone()
        return None if row is None else Threshold(*row)
