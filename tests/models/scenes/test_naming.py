from __future__ import annotations

import pytest

from models.scenes.captions import caption
from models.scenes.naming import named, naming
from models.scenes.sample import sample_scene
from models.scenes.scene import Scene, Thing


def thing(shape: str, colour: str, size: str = "small", texture: str = "plain") -> Thing:
    return Thing(shape, colour, size, texture, 0.5, 0.5, 0.09)


SCENE = Scene((thing("circle", "red"), thing("circle", "red"), thing("star", "blue", "large", "striped")))


@pytest.mark.parametrize("kind", ["full", "long"])
def test_true_full_captions_name_everything(kind: str) -> None:
    scenes = [sample_scene(i, split_name="validation") for i in range(200)]
    recall, precision = naming([caption(s, kind, i).text for i, s in enumerate(scenes)], scenes)
    assert recall.tolist() == precision.tolist() == [1.0] * 200


@pytest.mark.parametrize(
    ("text", "recall", "precision"),
    [
        ("two small plain red circles, a large striped blue star", 1, 1),
        ("three shapes: two small plain red circles", 2 / 3, 1),
        ("a small plain red circle, a large dotted blue star", 1 / 3, 1 / 2),
        ("three small plain red circles", 2 / 3, 2 / 3),
        ("a small plain red circle, a red circle left of a blue star", 1 / 3, 1),
        ("three shapes", 0, 0),
        ("", 0, 0),
    ],
)
def test_naming_of_cases_worked_by_hand(text: str, recall: float, precision: float) -> None:
    (found,), (right,) = naming([text], [SCENE])
    assert found == pytest.approx(recall)
    assert right == pytest.approx(precision)


def test_fewer_attributes_may_count() -> None:
    (found,), (right,) = naming(["a large dotted red circle, a blue star"], [SCENE], ("colour", "shape"))
    assert (found, right) == (pytest.approx(2 / 3), 1)
    assert named("two red stars", ("colour",)) == {("red",): 2}
