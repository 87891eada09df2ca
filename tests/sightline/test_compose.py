"""Composed queries: the formula against its linear expansion, and its corners."""

from __future__ import annotations

import numpy as np
import pytest

from sightline.compose import compose_pdv, compose_sum
from sightline.errors import UsageError
from tests.sightline.points import unit

RNG = np.random.default_rng(0)
IMAGE, REFERENCE, WANTED, *GALLERY = (unit(row) for row in RNG.normal(size=(13, 24)))


@pytest.mark.parametrize(("alpha_image", "alpha_text", "beta"), [(1.4, 1.2, 0.75), (-0.5, 0.3, 0.2), (2, 2, 0)])
def test_pdv_scores_are_its_three_dot_products(alpha_image: float, alpha_text: float, beta: float) -> None:
    """score = (1-b) i.g + [(1-b) ai + b at] (w.g - t.g) + b t.g, up to the norm."""
    query = np.array(compose_pdv(IMAGE, REFERENCE, WANTED, alpha_image, alpha_text, beta))
    assert np.linalg.norm(query) == pytest.approx(1)
    along = (1 - beta) * alpha_image + beta * alpha_text
    expected = [
        (1 - beta) * (IMAGE @ g) + along * (WANTED @ g - REFERENCE @ g) + beta * (REFERENCE @ g) for g in GALLERY
    ]
    found = [query @ g for g in GALLERY]
    assert np.corrcoef(found, expected)[0, 1] == pytest.approx(1)
    assert np.argsort(found).tolist() == np.argsort(expected).tolist()


def test_all_ones_is_the_search_for_the_wanted_text_and_no_step_from_the_image_is_the_image() -> None:
    assert compose_pdv(IMAGE, REFERENCE, WANTED, 1, 1, 1) == pytest.approx(WANTED)
    assert compose_pdv(IMAGE, REFERENCE, WANTED, 0, 1, 0) == pytest.approx(IMAGE)


def test_sum_lies_halfway() -> None:
    query = np.array(compose_sum(IMAGE, WANTED))
    assert query @ IMAGE == pytest.approx(query @ WANTED)


def test_factors_out_of_range_and_opposites_are_refused() -> None:
    with pytest.raises(UsageError, match="beta must lie between 0 and 1, not 2"):
        compose_pdv(IMAGE, REFERENCE, WANTED, beta=2)
    with pytest.raises(UsageError, match="alpha_image must lie between"):
        compose_pdv(IMAGE, REFERENCE, WANTED, alpha_image=3)
    with pytest.raises(UsageError, match="cancel"):
        compose_sum(IMAGE, -IMAGE)
