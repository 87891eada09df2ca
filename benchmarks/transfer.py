"""Importing vectors, and ingesting an unchanged folder again, each as a ratio to what it cannot be faster than.

    python -m benchmarks.transfer [rows]

- import: rows of 512 float16 numbers, against COPY of the same bytes into the same tables without any check;
- again: an unchanged folder of small files, against its first ingest, which has to upload them.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psycopg
from psycopg.types.json import Jsonb

from sightline.client import Sightline
from sightline.embedded.stack import EmbeddedStack
from sightline.migrate import migrate
from sightline.settings import Settings
from sightline.transfer.binary import copy_rows, normalise
from sightline.transfer.rows import Target

DIM = 512
PASSPORT = {"model": "benchmark", "dim": DIM}


def seconds(what: Callable[[], object]) -> float:
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


def bare(url: str, vectors: np.ndarray) -> None:
    """The least that stores the same rows: binary COPY into a temporary table, and two INSERTs."""
    with psycopg.connect(url) as connection:
        connection.execute("insert into sightline.collection (name) values ('bare')")
        for start in range(0, len(vectors), 4096):
            part = vectors[start : start + 4096]
            units, norms, _ = normalise(part, np.full(len(part), np.nan))
            targets = {
                n: Target(f"{start + n}", "bare", "image", f"vector:{start + n}", None) for n in range(len(part))
            }
            copy_rows(connection, targets, units, norms)
            connection.execute(
                "with made as (insert into sightline.item (collection_id, external_id, modality, uri) "
                "select c.collection_id, f.external_id, f.modality, f.uri from pg_temp.sightline_import f "
                "join sightline.collection c on c.name = f.collection returning item_id, external_id) "
                "insert into sightline.embedding (space_id, item_id, generation, norm, modality, vec) "
                "select 1, m.item_id, 1, f.norm, f.modality, f.vec from made m join pg_temp.sightline_import f using (external_id)"
            )
            connection.commit()


def main(rows: int) -> None:
    with tempfile.TemporaryDirectory(prefix="sightline-benchmark-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with EmbeddedStack(folder / "home") as stack:
            migrate(stack.database_url)
            with psycopg.connect(stack.database_url, autocommit=True) as connection:
                connection.execute("select sightline.create_space('s', 'benchmark', %s, %s)", (DIM, Jsonb(PASSPORT)))
                connection.execute("select sightline.alias_space('current', 's')")
            vectors = np.random.default_rng(0).normal(size=(rows, DIM)).astype(np.float16)
            np.save(folder / "vectors.npy", vectors)
            (folder / "ids.txt").write_text("".join(f"{n}\n" for n in range(rows)))
            (folder / "passport.json").write_text(json.dumps(PASSPORT))
            with Sightline(stack.database_url, stack.redis_url, settings=Settings(home=folder / "home")) as client:

                def load() -> object:
                    return client.import_vectors("s", [folder / "vectors.npy"], [folder / "ids.txt"], collection="c")

                least = seconds(lambda: bare(stack.database_url, vectors))
                taken, again = seconds(load), seconds(load)
                print(
                    f"import: {rows / taken:,.0f} rows/s, {least / taken:.2f} of bare COPY; again {rows / again:,.0f} rows/s"
                )
                photos = folder / "photos"
                photos.mkdir()
                for n in range(5000):
                    (photos / f"{n}.png").write_bytes(os.urandom(20_000))
                    os.utime(photos / f"{n}.png", (1e9, 1e9))
                first = seconds(lambda: client.ingest(photos, collection="photos"))
                second = seconds(lambda: client.ingest(photos, collection="photos"))
                print(
                    f"ingest: {5000 / first:,.0f} files/s; unchanged {5000 / second:,.0f} files/s, {first / second:.1f} x"
                )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50_000)
