"""What a batch will take, in seconds: one unit for pixels, tokens and pairs, so that all work shares one budget.

A price is linear: `fixed + n * (per_item + per_unit * longest)`, for a batch of n items is padded to its longest. It is
fitted at warm-up and scaled afterwards by what forwards really took. Pure: no clock, no threads.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

BUDGET = 0.1
"""Seconds that a batch may take: whoever asks next waits for the batch that runs, and larger ones gain little."""
OVERHEAD = 0.1
"""Part of a batch that its fixed cost may be: where that asks for more than `BUDGET`, a batch may take longer ..."""
MOST_BUDGET = 0.5
"""... but no longer than so many seconds."""
RECENT = 33
"""Forwards whose median tells how right a price is; one that was disturbed does not count."""
ENOUGH = 5
"""Forwards before the price is scaled at all."""
RECOVERY = 1 / 1000
"""Part of the batch that was too large which each forward wins back."""


@dataclass(frozen=True, slots=True)
class Price:
    """What batches of one kind take, in seconds. The defaults are of a kind that was never measured."""

    fixed: float = 0.005
    per_item: float = 0.005
    per_unit: float = 0.0

    def cost(self, n: int, longest: int) -> float:
        """Of a batch of n items that is padded to `longest`."""
        return self.fixed + n * (self.per_item + self.per_unit * longest)

    def scaled(self, factor: float) -> Price:
        """The same on a machine that is so much slower."""
        return Price(self.fixed * factor, self.per_item * factor, self.per_unit * factor)


class Costs:
    """Prices by kind, and the budget of one batch.

    Args:
        least: the budget of what has little fixed cost, in seconds.
    """

    def __init__(self, least: float = BUDGET) -> None:
        self._least = least
        self._limit = self._too_large = float("inf")
        self._fitted: dict[str, Price] = {}
        self._prices: dict[str, Price] = {}
        self._ratios: dict[str, deque[float]] = {}

    def price(self, kind: str) -> Price:
        """As of now."""
        return self._prices.get(kind) or Price()

    def budget(self, kind: str) -> float:
        """Seconds that a batch of this kind may take."""
        return min(self._limit, max(self._least, min(MOST_BUDGET, self.price(kind).fixed / OVERHEAD)))

    def fit(self, kind: str, measured: Mapping[int, Sequence[tuple[int, float]]]) -> None:
        """Set a price.

        Args:
            kind: of the work.
            measured: by the size of the items, forwards as (n, seconds).
        """
        lines = {size: _line(points) for size, points in measured.items()}
        largest, smallest = max(lines), min(lines)
        per_largest = lines[largest][1]
        if largest > smallest:
            per_unit = max(0.0, (per_largest - lines[smallest][1]) / (largest - smallest))
        else:
            per_unit = per_largest / max(1, largest)
        fixed = statistics.median(line[0] for line in lines.values())
        self._fitted[kind] = Price(fixed, max(0.0, per_largest - per_unit * largest), per_unit)
        self._prices[kind] = self._fitted[kind]
        self._ratios.pop(kind, None)

    def observe(self, kind: str, n: int, longest: int, seconds: float) -> None:
        """Learn from a forward: the price follows the median of the recent ones."""
        fitted = self._fitted.get(kind) or Price()
        ratios = self._ratios.setdefault(kind, deque(maxlen=RECENT))
        ratios.append(seconds / fitted.cost(n, longest))
        if len(ratios) >= ENOUGH:
            self._prices[kind] = fitted.scaled(statistics.median(ratios))
        self._limit += self._too_large * RECOVERY if self._limit < self._too_large else 0.0
        if self._limit >= self._too_large:
            self._limit = self._too_large = float("inf")

    def out_of_memory(self, cost: float) -> None:
        """A batch of this cost did not fit: from now on half of it at most, which is won back slowly."""
        self._too_large = cost if self._limit == float("inf") else self._too_large
        self._limit = min(self._limit, cost) / 2


def _line(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Intercept and slope after Theil and Sen (medians), so that a disturbed forward does not bend it; both >= 0."""
    slopes = [(y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(points, 2) if x1 != x2]
    n, seconds = max(points)
    if not slopes:
        return 0.0, seconds / n
    slope = statistics.median(slopes)
    if slope <= 0:  # noise, or work so small that only the fixed part shows
        slope = seconds / n / 2
    return max(0.0, statistics.median(y - slope * x for x, y in points)), slope
