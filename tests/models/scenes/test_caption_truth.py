"""What a caption tells of a scene, worked out by hand."""

from __future__ import annotations

import pytest

from models.scenes.caption_truth import Told, told_by
from models.scenes.captions import WRONG, caption, contrast
from models.scenes.sample import sample_scene
from models.scenes.scene import Background, Scene, Thing


def thing(shape: str, colour: str, size: str, texture: str, x: float) -> Thing:
    return Thing(shape, colour, size, texture, x, 0.5, 0.1)


SCENE = Scene(
    (thing("circle", "red", "small", "plain", 0.2), thing("star", "blue", "large", "striped", 0.8)),
    Background("noisy"), word="cafe",
)  # fmt: skip
THERE = 4 * 2 + 2 + 1


@pytest.mark.parametrize(
    ("text", "true", "false"),
    [
        ("", 0, 0),
        ("a shape", 0, 0),
        ("a red circle", 2, 0),
        ("a blue circle", 1, 1),
        ("a red star", 1, 1),
        ("a red circle, a blue star", 4, 0),
        ("a blue circle, a red star", 2, 2),
        ("a red circle, a red circle", 2, 2),
        ("two red circles", 2, 2),
        (
            "two shapes: a small plain red circle, a large striped blue star, on a noisy background, with the word cafe",
            THERE,
            0,
        ),
        ("three shapes", 0, 1),
        ("two shapes", 1, 0),
        ("a red circle, a blue star, a green ring", 4, 2),
        ("a red circle left of a blue star", 0, 0),
        ("a blue star left of a red circle", 0, 1),
        ("a red thing on a plain background", 1, 1),
        ("the word open", 0, 1),
        ("red red red red", 1, 0),
    ],
)
def test_attributes_are_counted(text: str, true: int, false: int) -> None:
    assert told_by(text, SCENE) == Told(true, false, THERE)


@pytest.mark.parametrize("number", range(30))
def test_a_full_caption_tells_all_and_one_wrong_claim_is_one_false_attribute(number: int) -> None:
    scene = sample_scene(number, split_name="validation", things=(2, 4))
    told = told_by(caption(scene, "full", number).text, scene)
    assert (told.share, told.false) == (1.0, 0)
    for what in WRONG:
        pair = contrast(scene, number, what)
        if pair is not None:
            assert told_by(pair[1].text, scene).false >= 1, pair[1].text
