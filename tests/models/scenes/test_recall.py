from __future__ import annotations

import numpy as np
import pytest

from models.scenes.recall import figure, hits_at, measured, recall_at


def test_recall_of_a_case_worked_by_hand() -> None:
    # The own items rank first, second and third.
    scores = np.array([[0.9, 0.1, 0.5], [0.8, 0.7, 0.6], [0.3, 0.2, 0.1]])
    assert recall_at(scores, 1).value == pytest.approx(1 / 3)
    assert recall_at(scores, 2).value == pytest.approx(2 / 3)
    assert recall_at(scores, 3).value == 1


def test_ties_count_against_us() -> None:
    assert recall_at(np.ones((3, 3)), 2).value == 0
    assert recall_at(np.ones((3, 3)), 3).value == 1
    row = np.array([[0.5, 0.5, 0.1]])
    assert hits_at(row, np.array([0]), 1).tolist() == hits_at(row, np.array([1]), 1).tolist() == [0]
    assert hits_at(row, np.array([0]), 2).tolist() == hits_at(row, np.array([1]), 2).tolist() == [1]


def test_an_item_that_is_not_there_is_not_found() -> None:
    assert hits_at(np.array([[0.5, 0.4]]), np.array([-1]), 2).tolist() == [0]


def test_scores_that_are_no_numbers_are_an_error() -> None:
    with pytest.raises(ValueError, match="not finite"):
        recall_at(np.array([[np.nan]]), 1)


def test_average_precision_of_a_case_worked_by_hand() -> None:
    # Right at ranks 1 and 3, and a third one never found: (1/1 + 2/3 + 0) / 3. Query b finds nothing.
    right = {"a": {"x": 1, "y": 1, "z": 1}, "b": {"x": 1}}
    assert measured("AP", right, {"a": {"x": 3.0, "n": 2.0, "y": 1.0}}).tolist() == pytest.approx([5 / 9, 0])


def test_the_interval_holds_the_value_and_narrows_with_more_queries() -> None:
    few, many = figure(np.arange(50) % 2 == 0), figure(np.arange(5000) % 2 == 0)
    assert few.low <= few.value <= few.high
    assert many.high - many.low < (few.high - few.low) / 5
    assert many.high - many.low == pytest.approx(2 * 1.96 * 0.5 / 5000**0.5, rel=0.15)


def test_no_queries_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        figure(np.zeros(0))
