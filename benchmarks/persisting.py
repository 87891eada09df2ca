"""Persisting vectors, as the worker does it, beside COPY BINARY of the same rows into the same partition."""

from __future__ import annotations

from benchmarks import persist
from benchmarks.arena import Arena
from benchmarks.row import Row, ratio_row


def measure(arena: Arena) -> list[Row]:
    """Rows per second of both."""
    rows = min(8192, arena.scale.rows)
    found = persist.measure(arena.scale.rounds, rows)
    return [
        ratio_row(
            "persist", f"persist {rows:,} vectors of 512 numbers, with their upsert", "COPY BINARY into the same partition",
            found["ours"], found["base"], "rows/s", 0.5, note=found["note"],
        )
    ]  # fmt: skip
