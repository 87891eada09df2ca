"""The shipped captioner, matcher and detector, loaded as they are served. Figures on test scenes are the card's."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from models.captioner import FULL_PROMPT
from models.checkpoint import CAPTIONER_ID, bundled_model
from models.errors import UnsafeCheckpoint
from models.matcher import load_matcher
from models.scenes.captions import contrast
from models.scenes.card import verify
from models.scenes.detection import mean_average_precision
from models.scenes.evaluate_blip import RERANKED, TARGETS, Models
from models.scenes.naming import named, naming
from models.scenes.render import render_array
from models.scenes.sample import sample_scene

WEIGHTS = bundled_model(CAPTIONER_ID)
SCENES = [sample_scene(i, split_name="validation", things=(2, 4)) for i in range(5000, 5060)]


@pytest.fixture(scope="module")
def models() -> Models:
    return Models.load()


@pytest.fixture(scope="module")
def pixels(models: Models) -> list[np.ndarray]:
    return [models.detector.prepare_image(render_array(scene, 224)) for scene in SCENES]


def test_the_card_tells_every_target_and_the_digests_hold() -> None:
    card = verify(WEIGHTS)
    assert {*TARGETS, RERANKED} <= set(card["figures"])
    assert all(card["figures"][name]["target"] is not None for name in (*TARGETS, RERANKED))
    assert card["licence"] == "Apache-2.0"
    assert card["limits"]


def test_weights_changed_by_one_byte_are_refused(tmp_path: Path) -> None:
    copy = shutil.copytree(WEIGHTS, tmp_path / "copy")
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "model.safetensors").write_bytes(data)
    with pytest.raises(UnsafeCheckpoint, match="model card"):
        load_matcher(str(copy))


def test_all_weights_together_are_small() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.parent.rglob("*") if path.is_file()) < 40e6


def test_asked_for_everything_the_captioner_names_most_things(models: Models, pixels: list[np.ndarray]) -> None:
    texts = [caption.text for caption in models.captioner.caption(pixels, FULL_PROMPT)]
    recall, precision = naming(texts, SCENES)
    assert recall.mean() > 0.5
    assert precision.mean() > 0.5


def test_not_asked_it_is_vague(models: Models, pixels: list[np.ndarray]) -> None:
    texts = [caption.text for caption in models.captioner.caption(pixels)]
    assert np.mean([sum(named(text).values()) <= 1 for text in texts]) > 0.8


def test_the_matcher_tells_a_wrong_attribute(models: Models, pixels: list[np.ndarray]) -> None:
    pairs = [(k, pair) for k, scene in enumerate(SCENES) if (pair := contrast(scene, k, "attribute")) is not None]
    tokens = models.matcher.see(pixels)[[k for k, _ in pairs]]
    true, wrong = (
        models.matcher.log_odds([models.matcher.prepare(pair[n].text, "query").value for _, pair in pairs], tokens)
        for n in (0, 1)
    )
    assert (true > wrong).mean() > 0.65


def test_the_detector_finds_most_things(models: Models, pixels: list[np.ndarray]) -> None:
    assert mean_average_precision(models.detector.detect(pixels), SCENES).value > 0.5
