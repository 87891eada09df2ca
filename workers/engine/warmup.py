"""The first forwards of a kind of work: up to the largest batch, so that memory is there and the price is known."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import structlog

from workers.engine.costs import Costs
from workers.engine.forward import is_out_of_memory
from workers.engine.schedule import MOST
from workers.engine.work import Work

log = structlog.get_logger(__name__)


def warm_up(work: Work, costs: Costs) -> None:
    """Run batches until one takes the whole budget, and fit the price of the kind. Raises what the work raises."""
    measured: dict[int, list[tuple[int, float]]] = {}
    short: tuple[int, int] | None = None
    for sample in work.samples():
        points = measured.setdefault(work.size(sample), [])
        n = 1
        while n <= MOST and (n <= 2 or points[-1][1] < costs.budget(work.kind)):
            try:
                # The first one of a size sets memory aside; the second is what it takes.
                seconds = min(_seconds(work, [sample] * n), _seconds(work, [sample] * n))
            except Exception as error:
                if n == 1 or not is_out_of_memory(error):
                    raise
                short = n, work.size(sample)
                break
            points.append((n, seconds))
            n *= 2
            costs.fit(work.kind, measured)
    price = costs.price(work.kind)
    if short is not None:
        costs.out_of_memory(price.cost(*short))
        log.warning(
            "warm_up_out_of_memory", kind=work.kind, items=short[0], budget_seconds=round(costs.budget(work.kind), 4)
        )
    log.info("warmed_up", kind=work.kind, largest={size: points[-1] for size, points in measured.items()},
             fixed_ms=round(price.fixed * 1e3, 3), item_ms=round(price.per_item * 1e3, 4),
             unit_ms=round(price.per_unit * 1e3, 7))  # fmt: skip


def _seconds(work: Work, items: Sequence[Any]) -> float:
    began = time.monotonic()
    work.forward(work.collate(items))
    return time.monotonic() - began
