"""Storing vectors as a worker does, against COPY BINARY of the same rows straight into the same partition.

    python -m benchmarks.persist [--rounds 5] [--rows 8192] [--indexed]

ours        `Writer.flush` of claimed chunks, a message at a time: fences, upsert, chunks closed, jobs closed.
base        COPY BINARY of rows that are packed beforehand, of the same size a transaction. It cannot store a vector twice.

Both write new rows of 512 halfvec numbers to one table under its foreign keys; neither has an HNSW index, unless
`--indexed` asks for one in both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import struct
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from psycopg.types.json import Jsonb

from sightline.database import Database
from sightline.embedded.stack import EmbeddedStack
from sightline.migrate import migrate
from sightline.space import index_space
from workers.database import Pool, open_pool
from workers.ledger import ClaimedChunk, Ledger
from workers.vector import Vector
from workers.writer import Outcome, Writer

DIM = 512
MESSAGE = 256
"""Items of a message, and rows of a transaction in both arms."""
_HEADER, _TRAILER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0), struct.pack(">h", -1)
_ROW = np.dtype([
    ("fields", ">i2"), ("space_size", ">i4"), ("space_id", ">i2"), ("item_size", ">i4"), ("item_id", ">i8"),
    ("slot_size", ">i4"), ("slot", ">i2"), ("generation_size", ">i4"), ("generation", ">i4"), ("norm_size", ">i4"),
    ("norm", ">f4"), ("modality_size", ">i4"), ("modality", "S4"), ("time_size", ">i4"), ("embedded_at", ">i8"),
    ("note_size", ">i4"), ("vec_size", ">i4"), ("dim", ">i2"), ("unused", ">i2"), ("vec", ">f2", (DIM,)),
])  # fmt: skip
"""A row in the format of binary COPY: each field with its length before it, -1 for NULL."""
_CONSTANT: dict[str, Any] = {
    "fields": 9, "space_size": 2, "space_id": 1, "item_size": 8, "slot_size": 2, "generation_size": 4, "generation": 1,
    "norm_size": 4, "norm": 1.0, "modality_size": 4, "modality": b"text", "time_size": 8, "note_size": -1,
    "vec_size": 4 + 2 * DIM, "dim": DIM,
}  # fmt: skip


def measure(rounds: int, rows: int, *, indexed: bool = False) -> dict[str, Any]:
    """Rows per second of each round, in both arms.

    Args:
        rows: of one round and arm.
        indexed: through an HNSW index, in both arms.
    """
    with tempfile.TemporaryDirectory(prefix="sightline-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with EmbeddedStack(folder / "home") as stack:
            migrate(stack.database_url)
            with open_pool(stack.database_url, 2) as pool, psycopg.connect(stack.database_url, autocommit=True) as base:
                pool.wait(60.0)
                base.execute("select sightline.create_space('s', 'benchmark', %s)", (DIM,))
                base.execute("select sightline.alias_space('current', 's')")
                if indexed:
                    database = Database(stack.database_url)
                    index_space(database, "s")
                    database.close()
                vectors = _vectors(rows)
                rates: dict[str, list[float]] = {"ours": [], "base": []}
                for round_ in range(-1, rounds):  # the first one warms both up
                    for arm in ("ours", "base") if round_ % 2 else ("base", "ours"):
                        taken = (_ours if arm == "ours" else _base)(pool, base, vectors)
                        if round_ >= 0:
                            rates[arm].append(rows / taken)
                stored = base.execute("select count(*) from sightline.embedding").fetchone()
                assert stored == (2 * (rounds + 1) * rows,), stored
    return {**rates, "note": "with HNSW" if indexed else "no HNSW"}


def _vectors(rows: int) -> np.ndarray:
    """float32 (rows, DIM) of length 1, near one of a few hundred centres, as those of real collections are."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(256, DIM))
    made = centres[random.integers(256, size=rows)] + random.normal(size=(rows, DIM))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def _items(base: psycopg.Connection[Any], count: int) -> tuple[int, list[tuple[int, bytes]]]:
    """A new job of so many texts, and its items' ids and digests."""
    name = uuid.uuid4().hex
    items = [{"text": f"{name} {n}", "external_id": f"{name}-{n}"} for n in range(count)]
    row = base.execute("select sightline.submit('encode', '{}', %s, %s)", (name, Jsonb(items))).fetchone()
    assert row is not None
    found = base.execute(
        "select i.item_id, i.digest from sightline.item i join sightline.collection c using (collection_id) "
        "where c.name = %s order by i.item_id",
        (name,),
    ).fetchall()
    return row[0], found


def _ours(pool: Pool, base: psycopg.Connection[Any], vectors: np.ndarray) -> float:
    job_id, items = _items(base, len(vectors))
    digests = dict(items)
    rows = base.execute(
        "select chunk_id from sightline.chunk where job_id = %s order by chunk_id", (job_id,)
    ).fetchall()
    ledger = Ledger(pool, uuid.uuid4())
    writer = Writer(pool, ledger)
    messages: list[list[ClaimedChunk]] = [[]]
    for chunk in ledger.claim([chunk_id for (chunk_id,) in rows]):
        if sum(len(one.item_ids) for one in messages[-1]) + len(chunk.item_ids) > MESSAGE:
            messages.append([])
        messages[-1].append(chunk)
    ready = iter(vectors)
    outcomes = [
        {i: Outcome(i, 1, "text", str(i), digests[i], Vector(next(ready), 1.0)) for c in chunks for i in c.item_ids}
        for chunks in messages
    ]
    began = time.perf_counter()
    for chunks, known in zip(messages, outcomes, strict=True):
        writer.flush(chunks[0].space_id, chunks, known)
    return time.perf_counter() - began


def _base(_: Pool, base: psycopg.Connection[Any], vectors: np.ndarray) -> float:
    _, items = _items(base, len(vectors))
    rows = np.zeros(len(items), _ROW)
    for name, value in _CONSTANT.items():
        rows[name] = value
    rows["item_id"] = [item_id for item_id, _ in items]
    rows["vec"] = vectors
    parts = [rows[first : first + MESSAGE].tobytes() for first in range(0, len(rows), MESSAGE)]
    began = time.perf_counter()
    for part in parts:
        with base.cursor().copy(
            "copy sightline.embedding_s1 (space_id, item_id, slot, generation, norm, modality, embedded_at, note, vec) "
            "from stdin (format binary)"
        ) as copy:
            copy.write(_HEADER + part + _TRAILER)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--indexed", action="store_true", help="with an HNSW index in both arms")
    arguments = parser.parse_args()
    found = measure(arguments.rounds, arguments.rows, indexed=arguments.indexed)
    ratios = [ours / base for ours, base in zip(found["ours"], found["base"], strict=True)]
    print(json.dumps({key: [round(one) for one in found[key]] for key in ("ours", "base")} | {
        "ratio": round(statistics.median(ratios), 3), "min": round(min(ratios), 3), "max": round(max(ratios), 3),
        "note": found["note"],
    }, indent=2))  # fmt: skip


if __name__ == "__main__":
    main()
