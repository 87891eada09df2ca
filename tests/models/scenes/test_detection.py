from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.scenes.detection import counted, mean_average_precision, overlap
from models.scenes.detector import CLASSES, Detection, DetectorHead, place_boxes, place_classes
from models.scenes.sample import sample_scene
from models.scenes.scene import Scene, Thing


def thing(shape: str, colour: str, x: float, y: float = 0.5) -> Thing:
    return Thing(shape, colour, "large", "plain", x, y, 0.1)


def seen(of: Thing, score: float, shift: float = 0.0) -> Detection:
    left, top, right, bottom = of.box
    return Detection(of.shape, of.colour, score, (left + shift, top, right + shift, bottom))


def test_overlap_of_cases_worked_by_hand() -> None:
    assert overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 1, 1), (0, 0, 1, 1)) == 1
    assert overlap((0, 0, 1, 1), (1, 0, 2, 1)) == 0


def test_what_is_found_where_it_lies_is_right() -> None:
    scenes = [sample_scene(i) for i in range(50)]
    found = [[seen(one, 0.9) for one in scene] for scene in scenes]
    assert mean_average_precision(found, scenes).value == 1
    assert counted(found, scenes).value == 1


def test_average_precision_of_a_case_worked_by_hand() -> None:
    circle, other = thing("circle", "red", 0.2), thing("circle", "red", 0.8)
    scenes = [Scene((circle, other)), Scene((thing("star", "blue", 0.2),))]
    # Red circle: right at rank 1, wrong place at rank 2, right at rank 3: (1 + 2/3) / 2. The star is never found.
    found = [[seen(circle, 0.9), seen(circle, 0.8, shift=0.3), seen(other, 0.7)], []]
    assert mean_average_precision(found, scenes).value == pytest.approx((5 / 6 + 0) / 2)


def test_a_thing_is_found_once() -> None:
    circle = thing("circle", "red", 0.5)
    twice = [[seen(circle, 0.9), seen(circle, 0.95)]]
    assert mean_average_precision(twice, [Scene((circle,))]).value == 1
    assert counted(twice, [Scene((circle,))]).value == 0


def test_of_equal_scores_the_wrong_detection_comes_first() -> None:
    circle = thing("circle", "red", 0.5)
    found = [[seen(circle, 0.9), seen(circle, 0.9, shift=0.4)]]
    assert mean_average_precision(found, [Scene((circle,))]).value == pytest.approx(0.5)


def test_a_wrong_colour_or_shape_is_not_right() -> None:
    circle = thing("circle", "red", 0.5)
    for wrong in (replace(circle, colour="blue"), replace(circle, shape="star")):
        assert mean_average_precision([[seen(wrong, 0.9)]], [Scene((circle,))]).value == 0


def test_a_head_that_knows_the_truth_finds_every_thing() -> None:
    """The places that the head learns and the boxes that it reads back agree."""
    scenes = [sample_scene(i) for i in range(60)]
    head = DetectorHead(8)
    classes = torch.from_numpy(np.stack([place_classes(scene) for scene in scenes]))
    boxes = torch.from_numpy(np.stack([place_boxes(scene) for scene in scenes]))
    logits = [20.0 * torch.nn.functional.one_hot(classes[..., k], n).float() for k, n in enumerate(CLASSES.values())]
    head.forward = lambda _: (logits, boxes)  # type: ignore[method-assign]
    found = head.detect(torch.zeros(60, 9, 8))
    assert mean_average_precision(found, scenes, least=0.95).value == 1
    assert counted(found, scenes).value == 1
