"""Photographs to vectors: a bulk job and concurrent calls beside the ideal loop, and beside a plain Celery task each."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

import numpy as np

from benchmarks.arena import BUNDLED, TABLE, VIT, Arena
from benchmarks.row import Row, alternate, ratio_row
from sightline.item import Item

CALLERS = 64
SAME = 0.999
"""Least cosine of the vectors that both arms stored of one photograph."""

NAMES = {
    VIT: "224-px ViT",
    BUNDLED: "bundled encoder",
    "vit_b_32": "ViT-B/32, bf16",
    "vit_l_14": "ViT-L/14, bf16",
}


def measure(arena: Arena) -> list[Row]:
    """Three rows for each model."""
    return [row for model in arena.models for row in measure_model(arena, model)]


def measure_model(arena: Arena, model: str) -> list[Row]:
    """Bulk, plain Celery and concurrent calls of one model, in the same rounds."""
    files = arena.photographs(model)
    some = arena.few
    loop, plain = arena.loop(model), arena.plain_celery()
    serve(arena, model, some)  # loads the model and warms it up
    plain.run(model, files[:4])
    space = arena.space(model)
    call_all(arena, space, some[:CALLERS])
    rates = alternate(
        arena.scale.rounds,
        {
            "ideal": lambda _: loop.run(files, f"{TABLE}_{model}"),
            "served": lambda _: serve(arena, model, files, check=True),
            "plain": lambda _: plain.run(model, some),
            "calls": lambda _: call_all(arena, space, some),
        },
    )
    gpu = arena.encoder(model).device != "cpu"
    ideal = f"ideal loop, batches of {loop.batch}"
    name = NAMES[model]
    return [
        ratio_row(f"bulk-{model}", f"bulk encode, {name}", ideal, rates["served"], rates["ideal"], "items/s", 0.9),
        ratio_row(
            f"plain-{model}", f"bulk encode, {name}", "a Celery task per image", rates["served"], rates["plain"],
            "items/s", 4.0 if gpu else 1.4,
        ),
        ratio_row(
            f"calls-{model}", f"{CALLERS} concurrent calls, {name}", ideal, rates["calls"], rates["ideal"], "items/s",
            None if model == BUNDLED else 0.6,
        ),
    ]  # fmt: skip


def serve(arena: Arena, model: str, files: Sequence[Path], *, check: bool = False) -> float:
    """Items per second of a job whose items are new, in a space and a collection that are new."""
    space = arena.space(model)
    items = [Item(path=file, external_id=str(n)) for n, file in enumerate(files)]
    seconds = arena.timed_job(lambda: arena.client.ingest(items, collection=space, space=space))
    if check:
        _check_same(arena, space, f"{TABLE}_{model}", len(files))
    return len(files) / seconds


def call_all(arena: Arena, space: str, files: Sequence[Path]) -> float:
    """Items per second of calls of one image each, from so many threads."""
    contents = [file.read_bytes() for file in files]
    with ThreadPoolExecutor(CALLERS) as callers:
        began = perf_counter()
        list(callers.map(lambda content: arena.client.encode(images=[content], space=space, timeout=300), contents))
        return len(files) / (perf_counter() - began)


def _check_same(arena: Arena, space: str, table: str, count: int) -> None:
    """Both arms did the same work: what the ideal loop stored last is what the worker stored now."""
    rows = arena.connection.execute(
        f"select i.vec::text, e.vec::text from sightline.item t join sightline.collection c using (collection_id) "
        f"join sightline.embedding e on e.item_id = t.item_id and e.space_id = (sightline.resolve_space(%s)).space_id "
        f"join {table} i on i.item_id = t.external_id::int where c.name = %s",
        (space, space),
    ).fetchall()
    if not rows:  # the first round begins with the worker
        return
    assert len(rows) == count, f"{len(rows)} of {count} vectors are there"
    for pair in rows[:20]:
        ideal, stored = (np.array([float(x) for x in text[1:-1].split(",")]) for text in pair)
        cosine = float(ideal @ stored / np.linalg.norm(ideal) / np.linalg.norm(stored))
        assert cosine > SAME, f"the arms made different vectors of one photograph: cosine {cosine:.5f}"
