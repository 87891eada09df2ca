"""Submitting from Python: `ingest` of a stream of texts, beside COPY of the same rows into a table with the same indexes
and constraints."""

from __future__ import annotations

import time
from hashlib import sha256

import psycopg
from psycopg.types.json import Jsonb

from benchmarks.arena import BUNDLED, Arena
from benchmarks.row import Row, alternate, ratio_row
from sightline.client import Sightline
from sightline.item import Item

FOREIGN_KEYS = (
    "select pg_get_constraintdef(oid) from pg_constraint where conrelid = 'sightline.item'::regclass and contype = 'f'"
)
COLUMNS = "collection_id, external_id, modality, text, digest, metadata"


def measure(arena: Arena) -> list[Row]:
    """Items per second of both, in a database that no worker looks at. Both tables grow alike."""
    count = arena.scale.rows
    passport = arena.encoder(BUNDLED).passport.to_dict()
    with arena.database("submitted") as url, psycopg.connect(url, autocommit=True) as connection:
        connection.execute("select sightline.create_space('s', 'bundled', %s, %s)", (passport["dim"], Jsonb(passport)))
        connection.execute("create table same (like sightline.item including all)")
        for (foreign_key,) in connection.execute(FOREIGN_KEYS).fetchall():  # LIKE leaves them out
            connection.execute(f"alter table same add {foreign_key}")
        with Sightline(url, arena.services.redis_url, settings=arena.settings) as client:

            def submitted(number: int) -> float:
                items = (
                    Item(text=_text(number, n), external_id=str(n), metadata={"shelf": n % 200}) for n in range(count)
                )
                began = time.perf_counter()
                job = client.ingest(items, collection=f"round {number}", space="s")
                seconds = time.perf_counter() - began
                assert job.progress().submitted == count
                return count / seconds

            def copied(number: int) -> float:
                # Numbered as no collection of ingest is: both tables have their rows in the order of the key.
                texts = [_text(number, n) for n in range(count)]
                rows = [
                    (1000 + number, str(n), "text", text, sha256(text.encode()).digest(), Jsonb({"shelf": n % 200}))
                    for n, text in enumerate(texts)
                ]
                connection.execute(
                    "insert into sightline.collection (collection_id, name) overriding system value values (%s, %s)",
                    (1000 + number, f"copied {number}"),
                )
                began = time.perf_counter()
                with connection.cursor().copy(f"copy same ({COLUMNS}) from stdin") as copy:
                    for row in rows:
                        copy.write_row(row)
                return count / (time.perf_counter() - began)

            rates = alternate(arena.scale.rounds, {"copied": copied, "submitted": submitted})
        columns = COLUMNS.replace("collection_id, ", "")
        copies, items = f"select {columns} from same", f"select {columns} from sightline.item"
        differing = connection.execute(
            f"select count(*) from (({copies} except all {items}) union all ({items} except all {copies})) d"
        ).fetchone()
        assert differing == (0,), "the two arms stored different rows"
    return [
        ratio_row(
            "submit", f"ingest of {count:,} texts from Python", "COPY of the same rows, equally indexed and constrained",
            rates["submitted"], rates["copied"], "items/s", 0.5,
        )
    ]  # fmt: skip


def _text(number: int, n: int) -> str:
    return f"round {number}: a red star and {n} blue circles"
