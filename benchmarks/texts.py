"""Texts of mixed length: sightline's bulk job sorts them by length, the usual loop pads a batch to its longest."""

from __future__ import annotations

import numpy as np

from benchmarks.arena import TABLE, VIT, Arena
from benchmarks.checkpoints import CONTEXT, text_of
from benchmarks.row import Row, alternate, ratio_row
from sightline.item import Item

SHORTEST = 5
BATCH = 32
"""Texts of a batch of the usual loop. Smaller ones hold less padding, and run slower on most machines."""


def measure(arena: Arena) -> list[Row]:
    """Texts per second of a job through Redis, worker and Postgres, and of the loop in this process with its COPY."""
    encoder = arena.encoder(VIT)
    lengths = np.random.default_rng(0).integers(SHORTEST, CONTEXT + 1, arena.scale.texts)
    texts = [text_of(n, int(tokens)) for n, tokens in enumerate(lengths)]
    loop = arena.ideal(encoder.prepare_text, encoder.encode_texts, texts, "texts", BATCH)

    def served(some: list[str]) -> float:
        space = arena.space(VIT)
        items = [Item(text=text, external_id=str(n)) for n, text in enumerate(some)]
        return len(some) / arena.timed_job(lambda: arena.client.ingest(items, collection=space, space=space))

    served(texts[: max(8, len(texts) // 10)])
    rates = alternate(
        arena.scale.rounds,
        {"unsorted": lambda _: loop.run(texts, f"{TABLE}_texts"), "served": lambda _: served(texts)},
    )
    return [
        ratio_row(
            "texts", f"texts of {SHORTEST} to {CONTEXT} tokens, evenly mixed", f"unsorted padded batches of {BATCH}",
            rates["served"], rates["unsorted"], "texts/s", 1.5,
        )
    ]  # fmt: skip
