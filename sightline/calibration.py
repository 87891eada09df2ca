"""From the score of a scorer to a probability of relevance, fitted on pairs that somebody has labelled.

Scores of two scorers, or of one scorer on two collections, do not mean the same. `isotonic` fits the best function that
only rises (pool adjacent violators, Zadrozny & Elkan 2002); `temperature` fits slope and offset of the log-odds by
maximum likelihood (Platt 1999, with his smoothed targets), which needs fewer pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sightline.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

Method = Literal["isotonic", "temperature"]
_EDGE = 1e-7
"""Scores are kept so far from 0 and 1 where their log-odds are taken."""


@dataclass(frozen=True)
class Calibration:
    """A fitted function from raw scores to probabilities. It never falls, so it keeps the order.

    Args:
        method: how it was fitted.
        params: isotonic: `scores` and `shares`, both rising, interpolated between; temperature: `slope` and `offset`.
    """

    method: Method
    params: Mapping[str, Any]

    def apply(self, scores: Sequence[float]) -> list[float]:
        """Probabilities of relevance, in [0, 1]."""
        if self.method == "isotonic":
            import numpy as np

            found: list[float] = np.interp(scores, self.params["scores"], self.params["shares"]).tolist()
            return found
        slope, offset = self.params["slope"], self.params["offset"]
        return [_logistic(slope * _log_odds(score) + offset) for score in scores]


def fit(scores: Sequence[float], relevant: Sequence[bool], method: Method = "isotonic") -> Calibration:
    """Fit a calibration.

    Args:
        scores: raw scores in [0, 1].
        relevant: whether each pair fits.
        method: isotonic wants some hundred pairs, temperature some dozen.

    Raises:
        UsageError: pairs that are all relevant, or none of them.
    """
    if len(scores) != len(relevant):
        raise UsageError(f"{len(scores)} scores for {len(relevant)} labels")
    if all(relevant) or not any(relevant):
        raise UsageError(f"of {len(relevant)} pairs {sum(relevant)} are relevant: a calibration needs both kinds")
    return _isotonic(scores, relevant) if method == "isotonic" else _temperature(scores, relevant)


def smallest_threshold(probabilities: Sequence[float], relevant: Sequence[bool], precision: float) -> float | None:
    """The smallest probability above which at least such a share of the pairs is relevant; None if there is none.

    Pairs of equal probability are kept or dropped together.
    """
    order = sorted(zip(probabilities, relevant, strict=True), key=lambda pair: -pair[0])
    kept = right = 0
    best = None
    for place, (probability, is_relevant) in enumerate(order):
        kept, right = kept + 1, right + is_relevant
        last_of_its_kind = place + 1 == len(order) or order[place + 1][0] < probability
        if last_of_its_kind and right / kept >= precision:
            best = probability
    return best


def _isotonic(scores: Sequence[float], relevant: Sequence[bool]) -> Calibration:
    import numpy as np

    # Equal scores are one point, whatever order they come in.
    values, places, counts = np.unique(np.asarray(scores, float), return_inverse=True, return_counts=True)
    shares = np.bincount(places, np.asarray(relevant, float)) / counts
    blocks: list[tuple[float, float, int]] = []  # share, weight, points
    for share, count in zip(shares.tolist(), counts.tolist(), strict=True):
        block = (share, float(count), 1)
        while blocks and blocks[-1][0] >= block[0]:
            before = blocks.pop()
            weight = before[1] + block[1]
            block = ((before[0] * before[1] + block[0] * block[1]) / weight, weight, before[2] + block[2])
        blocks.append(block)
    fitted = np.repeat([block[0] for block in blocks], [block[2] for block in blocks])
    # The ends of each step say all of it.
    keep = np.ones(len(values), bool)
    keep[1:-1] = (fitted[1:-1] != fitted[:-2]) | (fitted[1:-1] != fitted[2:])
    return Calibration("isotonic", {"scores": values[keep].tolist(), "shares": fitted[keep].tolist()})


def _temperature(scores: Sequence[float], relevant: Sequence[bool]) -> Calibration:
    import numpy as np

    odds = np.array([_log_odds(score) for score in scores])
    labels = np.asarray(relevant, bool)
    positive = int(labels.sum())
    # Platt's targets: no finite sample makes anything certain.
    targets = np.where(labels, (positive + 1) / (positive + 2), 1 / (len(labels) - positive + 2))
    design = np.stack([odds, np.ones_like(odds)], axis=1)
    weights = np.array([1.0, 0.0])
    ridge = 1e-6 * np.eye(2)
    for _ in range(100):
        found = 1 / (1 + np.exp(-np.clip(design @ weights, -500, 500)))
        gradient = design.T @ (found - targets)
        hessian = design.T @ (design * (found * (1 - found))[:, None]) + ridge
        step = _bounded(np.linalg.solve(hessian, gradient))
        weights = weights - step
        if float(np.abs(step).max()) < 1e-10:
            break
    if weights[0] <= 0:
        raise UsageError("the higher the score, the less relevant were the pairs: nothing can be calibrated on them")
    return Calibration("temperature", {"slope": float(weights[0]), "offset": float(weights[1])})


def _bounded(step: np.ndarray) -> np.ndarray:
    """Newton's step, no longer than 5: far from the optimum it would overshoot."""
    shorter: np.ndarray = step * min(1.0, 5.0 / max(1e-12, float((step**2).sum()) ** 0.5))
    return shorter


def _log_odds(score: float) -> float:
    kept = min(1 - _EDGE, max(_EDGE, score))
    return math.log(kept / (1 - kept))


def _logistic(odds: float) -> float:
    return 0.5 * (1 + math.tanh(odds / 2))
