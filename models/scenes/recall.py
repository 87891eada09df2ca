"""Retrieval figures with a stated tie rule and bootstrap intervals."""

from __future__ import annotations

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


def ranks(scores: NDArray[np.floating], wanted: NDArray[np.integer] | None = None) -> NDArray[np.int64]:
    """The rank, from 1, of each query's item in scores (queries, items); item ``i`` for query ``i`` by default.

    Ties count against us: an item ranks behind every other item of the same score.
    """
    wanted = np.arange(len(scores)) if wanted is None else wanted
    own = scores[np.arange(len(scores)), wanted][:, None]
    rank: NDArray[np.int64] = (scores >= own).sum(axis=1)
    return rank


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
    """Share of queries whose own item is among the first ``k``."""
    return figure(ranks(scores) <= k)
