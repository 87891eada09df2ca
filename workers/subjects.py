"""The images of a caption job, decoded, with what is known of each and its neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from models.recipes import Known, Subject
from sightline.recipes import RecipeSpec
from workers.contents import Contents
from workers.database import Pool
from workers.decoders import Decoders
from workers.errors import UnsupportedModality
from workers.ingress import digest_of
from workers.items import Item
from workers.queries import query
from workers.spaces import Served

MAX_SIDE = 1024
"""Pixels of the longer side of what recipes see: captioners look at fewer, and painted words can be read in it."""
MOST_EARLIER = 50
"""Captions of one user that show a style."""


@dataclass(slots=True)
class Pictured:
    """An item with its pixels."""

    item: Item
    image: np.ndarray
    own: tuple[str, ...] = ()
    stored: tuple[Known, ...] = ()
    collection: str = ""
    neighbours: list[tuple[int, np.ndarray]] = field(default_factory=list)


class Subjects:
    """Reads what recipes write about. Safe in threads."""

    def __init__(self, pool: Pool, contents: Contents, decoders: Decoders) -> None:
        self._pool, self._contents, self._decoders = pool, contents, decoders

    def picture(self, items: Sequence[Item]) -> list[Pictured]:
        """Fetch and decode images, and load their captions; of those that are left out `error` says why.

        Raises:
            psycopg.Error: the database did not answer.
        """
        for item in items:
            if item.error is None and item.modality != "image":
                item.error = UnsupportedModality(f"{item.external_id}: captions are written for images")
        wanted = [item for item in items if item.error is None]
        self._contents.load_uploads(wanted)
        images = self._decoders.each(self._decode, wanted)
        pictured = [Pictured(item, image) for item, image in zip(wanted, images, strict=True) if image is not None]
        with self._pool.connection() as connection:
            rows = connection.execute(
                query("known_captions"), {"item_ids": [each.item.item_id for each in pictured]}
            ).fetchall()
        known = {row["item_id"]: row for row in rows}
        for each in pictured:
            row = known.get(each.item.item_id)
            if row is not None:
                each.own = (row["own"],) if row["own"] else ()
                each.stored = tuple(Known(**caption) for caption in row["stored"])
                each.collection = row["collection"]
        return pictured

    def find_neighbours(self, served: Served, pictured: Sequence[Pictured], vectors: np.ndarray, k: int) -> None:
        """The nearest stored images of each, of its collection, without itself. Raises psycopg.Error."""
        with self._pool.connection() as connection:
            for each, vector in zip(pictured, vectors, strict=True):
                rows = connection.execute(
                    query("neighbours"),
                    {"space": served.name, "space_id": served.space_id, "k": k, "item_id": each.item.item_id,
                     "collection": each.collection, "vector": f"[{','.join(map(repr, vector.tolist()))}]"},
                ).fetchall()  # fmt: skip
                each.neighbours = [(row["item_id"], row["vec"].to_numpy().astype(np.float32)) for row in rows]

    def subjects(
        self, spec: RecipeSpec, params: Any, lang: str, pictured: Sequence[Pictured], vectors: np.ndarray
    ) -> list[Subject]:
        """What the recipe is given."""
        earlier = self._earlier(spec, params, pictured)
        return [
            Subject(
                item_id=each.item.item_id,
                name=each.item.external_id,
                image=each.image,
                lang=lang,
                own=each.own,
                stored=each.stored,
                earlier=earlier.get(each.item.item_id, ()),
                vector=vector,
                neighbours=np.stack([v for _, v in each.neighbours]) if each.neighbours else None,
                neighbour_ids=tuple(item_id for item_id, _ in each.neighbours),
            )
            for each, vector in zip(pictured, vectors, strict=True)
        ]

    def done_before(self, key: Mapping[str, Any], item_ids: Sequence[int]) -> set[int]:
        """Images that have a caption of this recipe, model and parameters of their present content."""
        with self._pool.connection() as connection:
            rows = connection.execute(query("captioned"), {**key, "item_ids": list(item_ids)}).fetchall()
        return {row["item_id"] for row in rows}

    def _earlier(self, spec: RecipeSpec, params: Any, pictured: Sequence[Pictured]) -> dict[int, tuple[str, ...]]:
        """What the user of the parameters wrote of other images of the same collection, for each subject."""
        user = getattr(params, "user", None)
        if "earlier" not in (*spec.needs, *spec.uses) or not user or not pictured:
            return {}
        with self._pool.connection() as connection:
            rows = connection.execute(
                query("earlier_captions"),
                {"item_ids": [each.item.item_id for each in pictured], "user": user, "most": MOST_EARLIER},
            ).fetchall()
        return {row["item_id"]: tuple(row["texts"]) for row in rows}

    def _decode(self, item: Item) -> np.ndarray:
        data = self._contents.image_bytes(item)
        item.actual = item.blob_digest or digest_of(data)
        image: np.ndarray = self._contents.decode(item, data, _within, lambda _w, _h: (MAX_SIDE, MAX_SIDE))
        return image


def _within(image: np.ndarray) -> np.ndarray:
    """A copy that is not larger than `MAX_SIDE`."""
    height, width = image.shape[:2]
    if max(height, width) <= MAX_SIDE:
        return image.copy()
    scale = MAX_SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0))
