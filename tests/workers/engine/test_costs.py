"""Prices of batches: right after the warm-up, right on a machine that got slower, careful once memory ran out."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.engine.costs import ENOUGH, RECENT, Costs, Price


def test_an_unknown_kind_has_a_price_that_is_always_the_same() -> None:
    assert Costs().price("image") == Costs().price("text") == Price()
    assert Price().cost(10, 1) == Price().cost(10, 10**6) == pytest.approx(0.055)


@given(
    fixed=st.floats(1e-4, 0.05), per_item=st.floats(1e-5, 0.01), per_unit=st.floats(1e-7, 1e-4),
    short=st.integers(1, 20), more=st.integers(50, 5000),
)  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_a_fit_finds_the_price_though_a_forward_was_disturbed(
    fixed: float, per_item: float, per_unit: float, short: int, more: int
) -> None:
    true, costs = Price(fixed, per_item, per_unit), Costs()
    measured = {size: [(n, true.cost(n, size)) for n in (1, 2, 4, 8, 16, 32)] for size in (short, short + more)}
    measured[short][2] = (4, measured[short][2][1] * 20)
    costs.fit("text", measured)
    for n, size in ((1, short), (20, short + more), (64, short + more // 2)):
        assert costs.price("text").cost(n, size) == pytest.approx(true.cost(n, size), rel=0.1)


def test_items_of_one_size_cost_in_proportion_to_it() -> None:
    costs = Costs()
    costs.fit("image", {1000: [(n, 0.002 + n * 0.01) for n in (1, 2, 4, 8)]})
    assert costs.price("image").cost(5, 1000) == pytest.approx(0.052)
    assert costs.price("image").cost(5, 2000) == pytest.approx(0.102)


def test_noise_never_makes_a_batch_free() -> None:
    costs = Costs()
    costs.fit("image", {10: [(1, 0.02), (2, 0.015), (4, 0.01)]})
    assert costs.price("image").cost(100, 10) > costs.price("image").cost(10, 10) > 0
    costs.fit("image", {10: [(1, 0.5)]})  # the first forward took the whole budget
    assert costs.price("image").cost(2, 10) == pytest.approx(1.0)


def test_a_machine_that_got_slower_is_noticed_and_one_hiccup_is_not() -> None:
    costs = Costs()
    costs.fit("text", {10: [(n, 0.001 + n * 0.001) for n in (1, 2, 4, 8)]})
    fitted = costs.price("text")
    for _ in range(RECENT):
        costs.observe("text", 8, 10, 0.009)
    costs.observe("text", 8, 10, 30.0)
    assert costs.price("text").cost(8, 10) == pytest.approx(0.009)
    rng = random.Random(1)
    for _ in range(RECENT):
        costs.observe("text", 8, 10, 0.027 * rng.uniform(0.9, 1.1))
    assert costs.price("text").cost(8, 10) == pytest.approx(3 * fitted.cost(8, 10), rel=0.1)


def test_a_price_stands_until_there_are_enough_forwards() -> None:
    costs = Costs()
    for _ in range(ENOUGH - 1):
        costs.observe("text", 1, 10, 10.0)
    assert costs.price("text") == Price()


def test_memory_that_runs_out_halves_the_budget_which_comes_back_slowly() -> None:
    costs = Costs(least=0.1)
    costs.out_of_memory(0.08)
    assert costs.budget("text") == pytest.approx(0.04)
    costs.out_of_memory(0.04)
    assert costs.budget("text") == pytest.approx(0.02)
    for _ in range(100):
        costs.observe("text", 1, 10, 0.01)
    assert costs.budget("text") == pytest.approx(0.028)
    for _ in range(1000):
        costs.observe("text", 1, 10, 0.01)
    assert costs.budget("text") >= 0.1


def test_a_batch_is_as_long_as_its_fixed_cost_asks_for() -> None:
    """Where a forward of one item is mostly overhead, batches of one would waste it, on a slow machine too."""
    costs = Costs(least=0.1)
    costs.fit("image", {10: [(n, 0.033 + n * 0.044) for n in (1, 2, 4, 8)]})
    assert costs.budget("image") == pytest.approx(0.33)
    costs.fit("image", {10: [(n, 0.001 + n * 0.6) for n in (1, 2)]})
    assert costs.budget("image") == 0.1
