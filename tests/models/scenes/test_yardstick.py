"""The table of `sightline eval scenes`."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.scenes import yardstick
from models.scenes.evaluate import TARGETS as ENCODER_TARGETS
from models.scenes.evaluate_blip import RERANKED
from models.scenes.evaluate_blip import TARGETS as BLIP_TARGETS
from models.scenes.recall import Figure
from models.scenes.yardstick import Report, report


def nothing(what: str, share: float) -> None:
    """Nobody watches."""


def test_every_target_has_a_figure_and_every_figure_an_interval(blip: Path) -> None:
    told: list[tuple[str, float]] = []
    found = report(7, 12, split="validation", blip=str(blip), tell=lambda what, share: told.append((what, share)))
    assert set(found.targets) == {*ENCODER_TARGETS, *BLIP_TARGETS, RERANKED}
    assert set(found.targets) <= set(found.figures)
    assert all(one.low <= one.value <= one.high for one in found.figures.values())
    assert any("unseen" in name for name in found.figures)
    assert all(0 <= share <= 1 for _, share in told)
    # Random weights know nothing, and are not said to.
    assert found.figures["captioner: share of objects named right"].value < 0.2
    assert "captioner: share of objects named right" in found.missed


def test_a_target_is_met_when_it_is_reached_and_missed_when_its_model_is_absent() -> None:
    figures = {"a": Figure(0.6, 0.5, 0.7, 10), "b": Figure(0.59, 0.5, 0.7, 10)}
    found = Report("somewhere", figures, {"a": 0.6, "b": 0.6, "c": 0.1}, ("nobody",))
    assert found.missed == ["b", "c"]
    assert found.to_json()["figures"]["a"]["target"] == 0.6


def test_seeds_have_scenes_of_their_own_and_a_range() -> None:
    with pytest.raises(ValueError, match="0 to 999"):
        report(yardstick.SEEDS, tell=nothing)
    with pytest.raises(ValueError, match="got 0 and 0"):
        report(0, 0, tell=nothing)
