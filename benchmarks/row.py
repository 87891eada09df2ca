"""One line of the table: what was measured, beside what, in which rounds, and whether the target was met."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Unit = Literal["x", "ms"]


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured.

    Args:
        rounds: alternating rounds of each row; the figure is their median.
        images: photographs of one round with the ViT.
        small: photographs of one round with the bundled encoder, which is several times faster. Both arms do as many; a
            job begins when the dispatcher looks and ends with a flush, 0.2 to 0.3 s in which the loop has no counterpart,
            so a job of three seconds would say more of its ends than of its pace.
        few: photographs of one round for plain Celery and for calls, which are slower and have no such ends.
        texts: of one round; several messages, so that ends weigh little here too.
        calls: timed calls of one round, where calls are timed one by one.
        busy_calls: calls while bulk runs, all rounds together: a 99th percentile of fewer than 1,000 says little.
        rows: rows that are submitted, and persisted, in one round.
        stored: vectors that a search searches.
        batches: sizes of a batch, the best of which the ideal loop takes.
    """

    rounds: int
    images: int
    small: int
    few: int
    texts: int
    calls: int
    busy_calls: int
    rows: int
    stored: int
    batches: tuple[int, ...]


FULL = Scale(
    rounds=5, images=400, small=2400, few=150, texts=1200, calls=60, busy_calls=1000, rows=100_000, stored=20_000,
    batches=(4, 8, 16, 32, 64),
)  # fmt: skip
SHORT = Scale(
    rounds=2, images=9, small=18, few=6, texts=64, calls=4, busy_calls=12, rows=1000, stored=1200, batches=(8,)
)  # fmt: skip
"""Shows that every row can be measured, in a minute. Its figures are no measurement."""


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one measure.

    Args:
        name: short, for `--only` and JSON.
        measure: what was measured.
        baseline: what it is compared with, in the same run.
        unit: "x" for a ratio to the baseline, "ms" for what is taken more than the baseline.
        values: the figure of each round.
        ours, base: what the figures were made of, in `rate`: items/s, rows/s or ms.
        target: None where the figure is only reported.
        at_least: whether the target is a lower bound.
        pooled: the figure of all rounds together, where that is not their median.
        note: what else a reader needs to know.
    """

    name: str
    measure: str
    baseline: str
    unit: Unit
    values: Sequence[float]
    ours: Sequence[float]
    base: Sequence[float]
    rate: str
    target: float | None
    at_least: bool
    pooled: float | None = None
    note: str = ""

    @property
    def value(self) -> float:
        """The figure that is held against the target."""
        return statistics.median(self.values) if self.pooled is None else self.pooled

    @property
    def met(self) -> bool | None:
        """Whether the target was met; None without one."""
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, the raw figures of every round included."""
        return {
            "name": self.name, "measure": self.measure, "baseline": self.baseline, "unit": self.unit, "rate": self.rate,
            "value": self.value, "values": list(self.values), "ours": list(self.ours), "base": list(self.base),
            "target": self.target, "at_least": self.at_least, "met": self.met, "note": self.note,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, given: dict[str, Any]) -> Row:
        """The row that `to_dict` wrote."""
        fields = {name: value for name, value in given.items() if name not in {"value", "met"}}
        return cls(**fields, pooled=given["value"])


def ratio_row(
    name: str, measure: str, baseline: str, ours: Sequence[float], base: Sequence[float], rate: str,
    target: float | None, note: str = "",
) -> Row:  # fmt: skip
    """A row of rates, ours over the baseline's, round by round; the target is a lower bound."""
    values = [a / b for a, b in zip(ours, base, strict=True)]
    return Row(name, measure, baseline, "x", values, ours, base, rate, target, at_least=True, note=note)


def alternate(rounds: int, arms: dict[str, Callable[[int], float]]) -> dict[str, list[float]]:
    """The figure of each arm in each round; every other round takes the arms in the other order.

    So a machine that gets slower or faster meanwhile favours none of them.
    """
    figures: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(rounds):
        for name in arms if number % 2 == 0 else reversed(arms):
            figures[name].append(arms[name](number))
    return figures


def percentile(values: Sequence[float], q: float) -> float:
    """The q-th percentile."""
    assert values
    assert all(map(math.isfinite, values))
    return float(np.percentile(values, q))
