from __future__ import annotations

import numpy as np
import pytest

from models.scenes.recall import figure, ranks, recall_at


def test_ranks_of_a_case_worked_by_hand() -> None:
    scores = np.array([[0.9, 0.1, 0.5], [0.8, 0.7, 0.6], [0.3, 0.2, 0.1]])
    assert ranks(scores).tolist() == [1, 2, 3]
    assert recall_at(scores, 1).value == pytest.approx(1 / 3)
    assert recall_at(scores, 2).value == pytest.approx(2 / 3)


def test_ties_count_against_us() -> None:
    assert ranks(np.ones((3, 3))).tolist() == [3, 3, 3]
    assert ranks(np.array([[0.5, 0.5, 0.1]]), np.array([0])).tolist() == [2]


def test_the_interval_holds_the_value_and_narrows_with_more_queries() -> None:
    few, many = figure(np.arange(50) % 2 == 0), figure(np.arange(5000) % 2 == 0)
    assert few.low <= few.value <= few.high
    assert many.high - many.low < (few.high - few.low) / 5
    assert many.high - many.low == pytest.approx(2 * 1.96 * 0.5 / 5000**0.5, rel=0.15)


def test_no_queries_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        figure(np.zeros(0))
