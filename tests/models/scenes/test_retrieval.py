from __future__ import annotations

import numpy as np

from models.scenes.evaluate import THINGS
from models.scenes.recall import measured
from models.scenes.retrieval import EDITS, _edits, _run
from models.scenes.sample import sample_scene


def test_the_edits_of_a_scene_are_all_different() -> None:
    scenes = [sample_scene(number, split_name="test", things=THINGS) for number in range(5)]
    for number, scene in enumerate(scenes):
        found = _edits(scene, number)
        assert found is not None
        assert len({result for _, result in found} | {scene}) == EDITS + 1


def test_ties_count_against_what_is_right() -> None:
    scores = np.array([0.5, 0.9, 0.9, 0.1])
    right = {"q": {"1": 1}}
    assert measured("Success", right, {"q": _run(scores, right["q"])}, 1).tolist() == [0]
    assert measured("Success", right, {"q": _run(scores, right["q"])}, 2).tolist() == [1]
