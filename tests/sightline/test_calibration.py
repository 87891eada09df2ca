"""Scores to probabilities: as scikit-learn fits them, and never against the order."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from sightline.calibration import Calibration, fit, smallest_threshold
from sightline.errors import UsageError


def sample(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores, a third of them tied, and labels that are likelier the higher the score."""
    rng = np.random.default_rng(seed)
    scores = np.where(rng.random(n) < 0.3, rng.integers(1, 10, n) / 10, rng.random(n))
    return scores, rng.random(n) < scores**2


def test_isotonic_is_what_scikit_learn_fits() -> None:
    for seed in range(5):
        scores, labels = sample(300, seed)
        asked = np.linspace(0, 1, 101)
        theirs = IsotonicRegression(out_of_bounds="clip").fit(scores, labels).predict(asked)
        ours = Calibration("isotonic", fit(scores.tolist(), labels.tolist()).params).apply(asked.tolist())
        assert np.abs(np.array(ours) - theirs).max() < 1e-9


def test_temperature_is_logistic_regression_on_the_log_odds() -> None:
    scores, labels = sample(4000, 7)
    found = fit(scores.tolist(), labels.tolist(), "temperature").params
    odds = np.log(np.clip(scores, 1e-7, 1 - 1e-7) / np.clip(1 - scores, 1e-7, 1)).reshape(-1, 1)
    theirs = LogisticRegression(C=1e9, tol=1e-10).fit(odds, labels)
    # Platt's smoothed targets differ from labels by one in thousands
    assert found["slope"] == pytest.approx(theirs.coef_[0, 0], rel=0.02)
    assert found["offset"] == pytest.approx(theirs.intercept_[0], abs=0.02)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=2, max_size=40).filter(
        lambda pairs: 0 < sum(label for _, label in pairs) < len(pairs)
    ),
    st.lists(st.floats(0, 1), min_size=2, max_size=10),
)
def test_a_calibration_keeps_the_order_and_gives_probabilities(
    pairs: list[tuple[float, bool]], asked: list[float]
) -> None:
    scores, labels = [score for score, _ in pairs], [label for _, label in pairs]
    for method in ("isotonic", "temperature"):
        try:
            found = fit(scores, labels, method).apply(sorted(asked))
        except UsageError:
            assert method == "temperature", "there the order may be against the labels"
            continue
        assert all(0 <= p <= 1 for p in found)
        assert all(b >= a - 1e-12 for a, b in pairwise(found))


def test_labels_of_one_kind_calibrate_nothing() -> None:
    with pytest.raises(UsageError, match="of 3 pairs 3 are relevant"):
        fit([0.1, 0.2, 0.3], [True, True, True])


def test_the_threshold_is_the_smallest_that_keeps_the_precision() -> None:
    probabilities, labels = [0.9, 0.8, 0.8, 0.5, 0.2], [True, True, False, True, False]
    assert smallest_threshold(probabilities, labels, 0.75) == 0.5
    assert smallest_threshold(probabilities, labels, 1.0) == 0.9
    assert smallest_threshold([0.9, 0.9], [True, False], 1.0) is None, "ties are kept or dropped together"
