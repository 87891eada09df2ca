"""Captions as items of their own: their names are reserved, and who has one is told which."""

from __future__ import annotations

import hashlib

import psycopg
import pytest
from psycopg.types.json import Jsonb

from sightline.client import Sightline


def test_an_item_that_has_the_name_of_a_caption_is_named(client: Sightline, connection: psycopg.Connection) -> None:
    connection.execute("select sightline.create_space('toy', 'm', 2), sightline.alias_space('current', 'toy')")
    client.ingest([{"data": b"an image", "external_id": "image"}], collection="shop")
    job = client.caption("shop", embed=True)
    # As a release that did not reserve such names took it.
    connection.execute(
        "insert into sightline.item (collection_id, modality, external_id, text) "
        "select collection_id, 'text', 'sightline:caption/2', 'mine' from sightline.item"
    )
    (item_id,) = connection.execute("select item_id from sightline.item where external_id = 'image'").fetchone() or ()
    captions = [
        {"item_id": item_id, "generation": 1, "recipe": "describe", "model": "m", "lang": "en", "n": n, "text": f"text {n}",
         "params_digest": hashlib.sha256(b"{}").hexdigest(), "params": {}}
        for n in range(3)
    ]  # fmt: skip
    with pytest.raises(
        psycopg.Error, match=r"^item sightline:caption/2 has an external_id that begins with sightline:"
    ):
        connection.execute("select sightline.write_captions(%s, %s)", (job.job_id, Jsonb(captions)))
