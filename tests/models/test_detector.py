from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from models.detector import SceneDetector, load_detector
from models.errors import InvalidInput, NonFinite, UnsupportedModel
from models.scenes.vocabulary import COLOURS, SHAPES


@pytest.fixture(scope="module")
def detector(blip: Path) -> SceneDetector:
    return load_detector(str(blip), device="cpu")


def test_detections_are_sorted_and_lie_in_the_image(detector: SceneDetector, pictures: list[np.ndarray]) -> None:
    found = detector.detect([detector.prepare_image(picture) for picture in pictures], least=0.0)
    assert [len(detections) for detections in found] == [18] * len(pictures)
    for detections in found:
        scores = [one.score for one in detections]
        assert scores == sorted(scores, reverse=True)
        for one in detections:
            assert one.shape in SHAPES
            assert one.colour in COLOURS
            assert 0 <= one.box[0] <= one.box[2] <= 1 or one.box[2] < one.box[0]  # of random weights, a box is anything
    few = detector.detect([detector.prepare_image(picture) for picture in pictures], least=0.3)
    assert sum(map(len, few)) < sum(map(len, found))
    assert all(one.score >= 0.3 for detections in few for one in detections)


def test_no_images_give_no_detections(detector: SceneDetector) -> None:
    assert detector.detect([]) == []


def test_detections_are_the_same_alone_and_in_a_batch(detector: SceneDetector, pictures: list[np.ndarray]) -> None:
    prepared = [detector.prepare_image(picture) for picture in pictures]
    together = detector.detect(prepared)
    for image, expected in zip(prepared, together, strict=True):
        (alone,) = detector.detect([image])
        assert [(one.shape, one.colour) for one in alone] == [(one.shape, one.colour) for one in expected]
        assert np.allclose([one.box for one in alone], [one.box for one in expected], atol=1e-4)


def test_bad_images_are_refused(detector: SceneDetector) -> None:
    with pytest.raises(InvalidInput, match="uint8"):
        detector.prepare_image(np.zeros((8, 8), np.uint8))


def test_nan_is_refused_by_position(blip: Path, pictures: list[np.ndarray]) -> None:
    poisoned = load_detector(str(blip), device="cpu")
    with torch.no_grad():
        for weight in poisoned._tower.parameters():
            weight.fill_(float("nan"))
    with pytest.raises(NonFinite) as caught:
        poisoned.detect([poisoned.prepare_image(picture) for picture in pictures[:2]])
    assert caught.value.indices == (0, 1)


def test_a_checkpoint_without_a_detector_is_refused(clip: Path) -> None:
    with pytest.raises(UnsupportedModel):
        load_detector(str(clip))
