"""The content of items, read and made ready for a model: texts, uploads, files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from workers.database import Pool
from workers.images import DecodeSize
from workers.ingress import Ingress
from workers.items import Item
from workers.queries import query


class Contents:
    """Reads what items hold. Safe in threads."""

    def __init__(self, pool: Pool, ingress: Ingress) -> None:
        self._pool = pool
        self._ingress = ingress

    def load_uploads(self, items: Sequence[Item]) -> list[Item]:
        """Put the bytes of uploads into `data`, in one statement; returns those whose content lies in the media store.

        Raises:
            psycopg.Error: the database did not answer.
        """
        digests = sorted({item.blob_digest for item in items if item.blob_digest is not None and item.data is None})
        if not digests:
            return []
        with self._pool.connection() as connection, connection.cursor(binary=True) as cursor:
            rows = cursor.execute(query("load_blobs"), {"digests": digests}).fetchall()
        contents = {row["digest"]: row["bytes"] for row in rows}
        outside = []
        for item in items:
            if item.blob_digest in contents and item.data is None:
                item.data = contents[item.blob_digest]
                if item.data is None:
                    outside.append(item)
        return outside

    def image_bytes(self, item: Item) -> bytes:
        """The bytes of an image, which are in `data`, at its uri or in the media store; `data` is dropped.

        Raises:
            ItemError: see `workers.ingress`.
        """
        data, item.data = item.data, None
        if data is not None:
            return data
        if item.uri is not None:
            return self._ingress.read_uri(item.uri, item.external_id)
        assert item.blob_digest is not None  # an image has one of the three
        return self._ingress.read_media(item.blob_digest, item.external_id)

    def decode(
        self, item: Item, data: bytes, prepare_image: Callable[[np.ndarray], Any], decode_size: DecodeSize
    ) -> Any:
        """What a preparation makes of an image; `note` says what is not seen of it.

        Args:
            data: its bytes.
            decode_size: see `workers.images`.

        Raises:
            ItemError: see `workers.images.decode_image`.
            models.errors.InvalidInput: the model cannot take it.
        """
        with self._ingress.decoded(data, item.external_id, decode_size) as image:
            item.note = "; ".join(image.notes) or None
            return image.prepared_by(prepare_image)

    def prepare(
        self,
        item: Item,
        prepare_text: Callable[[str], Any],
        prepare_image: Callable[[np.ndarray], Any],
        decode_size: DecodeSize | None = None,
    ) -> Any:
        """What a model's preparation makes of an item; `data` is dropped, and `note` says what is not seen of it.

        Args:
            item: with its text, its uri, or `data`.
            decode_size: of the model; None decodes images whole.

        Raises:
            ItemError: see `workers.ingress`.
            models.errors.InvalidInput: the model cannot take it.
        """
        if item.text is not None:
            return prepare_text(self._ingress.check_text(item.text, item.external_id))
        whole: DecodeSize = lambda width, height: (width, height)  # noqa: E731
        return self.decode(item, self.image_bytes(item), prepare_image, decode_size or whole)
