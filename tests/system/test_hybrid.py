"""Hybrid search on held-out scenes with the bundled encoder: more than either of its parts finds."""

from __future__ import annotations

from typing import Any

import psycopg

from benchmarks.hybrid import measure


def test_hybrid_beats_vectors_and_words_where_a_query_mixes_an_attribute_and_a_word(
    connection: psycopg.Connection[Any],
) -> None:
    figures = measure(connection, seed=7, count=60)
    hybrid, *parts = (figures[f"{arm}: first hit right"] for arm in ("hybrid", "vectors", "words"))
    assert all(hybrid.low > part.high for part in parts), figures
