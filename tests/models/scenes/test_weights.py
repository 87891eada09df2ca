"""The shipped dual encoders, the one that searches and the judge: loaded as any Hugging Face CLIP model is."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from models.scenes.captions import caption
from models.scenes.card import WeightsRefused, verify
from models.scenes.evaluate import TARGETS, Encoder, evaluate, pictures
from models.scenes.recall import recall_at
from models.scenes.sample import sample_scene, twin

WEIGHTS = Path(__file__).parents[3] / "models" / "weights" / "scenes-dual-encoder"
JUDGE = WEIGHTS.with_name("scenes-judge")
BOTH = pytest.mark.parametrize("folder", [WEIGHTS, JUDGE], ids=lambda folder: folder.name)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    verify(WEIGHTS)
    return Encoder(WEIGHTS)


@BOTH
def test_the_card_tells_every_target_and_the_digests_hold(folder: Path) -> None:
    card = verify(folder)
    assert card["name"] == folder.name
    assert set(TARGETS) <= set(card["figures"])
    assert card["licence"] == "Apache-2.0"
    assert card["limits"]


def test_the_judge_was_trained_on_other_scenes_than_what_it_marks() -> None:
    cards = [verify(folder) for folder in (WEIGHTS, JUDGE)]
    assert cards[0]["seed"] != cards[1]["seed"]
    assert cards[0]["files"]["model.safetensors"] != cards[1]["files"]["model.safetensors"]


def test_weights_changed_by_one_byte_are_refused(tmp_path: Path) -> None:
    copy = shutil.copytree(WEIGHTS, tmp_path / "copy")
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "model.safetensors").write_bytes(data)
    with pytest.raises(WeightsRefused, match=r"model\.safetensors"):
        verify(copy)


def test_all_weights_together_are_small() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.parent.rglob("*")) < 40e6
    assert all(sum(path.stat().st_size for path in folder.iterdir()) < 6.5e6 for folder in (WEIGHTS, JUDGE))


@BOTH
def test_texts_find_their_scenes_far_above_chance(folder: Path) -> None:
    encoder = Encoder(folder)
    # Validation scenes: the figures on test scenes are the card's.
    scenes = [sample_scene(i, split_name="validation", things=(2, 4)) for i in range(2000, 2200)]
    images = encoder.images(pictures(scenes))
    texts = encoder.texts([caption(scene, "full", i).text for i, scene in enumerate(scenes)])
    assert recall_at(texts @ images.T, 1).value > 0.5
    assert recall_at(images @ texts.T, 1).value > 0.5
    twins = encoder.images(pictures([twin(scene, i) for i, scene in enumerate(scenes)]))
    assert recall_at(images @ twins.T, 1).value > 0.5


def test_short_searches_find_scenes_that_are_right_by_the_truth(encoder: Encoder) -> None:
    scenes = [sample_scene(i, split_name="validation") for i in range(3000, 3200)]
    images = encoder.images(pictures(scenes))
    asked = [caption(scene, "short", i) for i, scene in enumerate(scenes[:60])]
    best = (encoder.texts([c.text for c in asked]) @ images.T).argmax(axis=1)
    right = np.mean([c.query.matches(scenes[j]) for c, j in zip(asked, best, strict=True)])
    chance = np.mean([c.query.matches(scene) for c in asked for scene in scenes])
    assert right > 0.5
    assert right > 3 * chance


def test_unknown_words_do_no_harm(encoder: Encoder) -> None:
    vectors = encoder.texts(["", "zebra", "ein roter Kreis", "🦓 !!!", "circle " * 200])
    assert vectors.shape == (5, 256)
    assert np.isfinite(vectors).all()


def test_every_figure_is_measured_on_any_range_of_scenes() -> None:
    figures = evaluate(WEIGHTS, split="validation", first=4000, count=30)
    assert set(TARGETS) <= set(figures)
    assert all(figure.low <= figure.value <= figure.high for figure in figures.values())
    assert any(name.startswith("unseen") for name in figures)
