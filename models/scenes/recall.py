"""Retrieval figures by ir-measures, with a stated tie rule and bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean with its bootstrap 95 % interval, over ``n`` queries."""

    value: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, float | int]:
        """The figure with four decimals."""
        return {"value": round(self.value, 4), "low": round(self.low, 4), "high": round(self.high, 4), "n": self.n}

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def figure(hits: NDArray[np.bool_] | NDArray[np.floating], seed: int = 0, draws: int = 1000) -> Figure:
    """The mean of values (N,), one a query, with a percentile bootstrap. Raises ``ValueError`` if there are none."""
    if not len(hits):
        raise ValueError("a figure needs at least one query, got none")
    values = hits.astype(float)
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (draws, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Figure(float(values.mean()), float(low), float(high), len(values))


def recall_at(scores: NDArray[np.floating], k: int) -> Figure:
    """Share of queries whose own item is among the first ``k``; scores (queries, items), item ``i`` for query ``i``.

    Ties count against us: an item ranks behind every other item of the same score. Raises ``ValueError`` for a score
    that is not finite.
    """
    return figure(hits_at(scores, np.arange(len(scores)), k))


def hits_at(scores: NDArray[np.floating], wanted: NDArray[np.integer], k: int) -> NDArray[np.float64]:
    """For each query 1 if its item ``wanted`` (queries,) is among the first ``k``, else 0. -1 stands for no item."""
    if not np.isfinite(scores).all():
        raise ValueError("some scores are not finite")
    runs: dict[str, dict[str, float]] = {}
    for query, (row, item) in enumerate(zip(scores, wanted, strict=True)):
        order = np.lexsort((np.arange(len(row)) == item, -row))[:k]
        runs[str(query)] = {str(doc): float(-rank) for rank, doc in enumerate(order)}
    right = {str(query): {str(item): 1} for query, item in enumerate(wanted)}
    return measured("R", right, runs, k)


def measured(
    name: str,
    right: Mapping[str, Mapping[str, int]],
    runs: Mapping[str, Mapping[str, float]],
    k: int | None = None,
) -> NDArray[np.float64]:
    """A measure of ir-measures ("R", "AP") for each query of ``right``, in order, up to rank ``k``.

    ``right`` holds what is relevant for each query, ``runs`` the score of each document; scores must not tie, as
    trec_eval would break ties by the documents' names. A query without a run has found nothing.
    """
    import ir_measures

    measure = ir_measures.parse_measure(name if k is None else f"{name}@{k}")
    found = {metric.query_id: metric.value for metric in ir_measures.iter_calc([measure], right, runs)}
    return np.array([found.get(query, 0.0) for query in right], dtype=np.float64)
