from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from models.encoder import load_encoder
from models.late_interaction import LateInteractionScorer, clauses, crops, max_sim
from tests.kit.scorer import ScorerKit
from tests.models.tiny_checkpoints import build_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_clip(tmp_path_factory.mktemp("late") / "tiny-clip")


class TestLateInteraction(ScorerKit):
    @pytest.fixture
    def load(self, clip: Path) -> Callable[[], LateInteractionScorer]:
        return lambda: LateInteractionScorer(load_encoder(str(clip), device="cpu"))


def test_max_sim_is_the_mean_of_the_best_cosines() -> None:
    query = np.eye(3, dtype=np.float32)[:2]
    candidate = np.array([[0.6, 0.8, 0.0], [0.0, 0.0, 1.0]], np.float32)
    assert max_sim(query, candidate) == pytest.approx((1 + (0.6 + 0.8) / 2) / 2)


def test_a_text_is_cut_into_its_clauses_and_kept_whole() -> None:
    assert clauses("two shapes: a red circle, a star and a ring") == [
        "two shapes: a red circle, a star and a ring", "two shapes", "a red circle", "a star", "a ring",
    ]  # fmt: skip
    assert clauses("a red circle") == ["a red circle"]


def test_an_image_is_cut_into_overlapping_parts_that_cover_it() -> None:
    picture = np.arange(40 * 60, dtype=np.uint32).astype(np.uint8).reshape(40, 60, 1).repeat(3, axis=2)
    whole, *parts = crops(picture)
    assert whole is picture
    assert {part.shape for part in parts} == {(27, 40, 3)}
    seen = np.zeros((40, 60), bool)
    for top, left in ((0, 0), (0, 20), (13, 0), (13, 20)):
        seen[top : top + 27, left : left + 40] = True
    assert seen.all()
    assert len(crops(picture[:20])) == 1, "small ones stay whole"
