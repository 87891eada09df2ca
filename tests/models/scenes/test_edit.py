from __future__ import annotations

import numpy as np
import pytest

from models.scenes.captions import caption
from models.scenes.edit import Edit, EditError, random_edit
from models.scenes.parse import parse_edit
from models.scenes.query import Claim
from models.scenes.render import render_array
from models.scenes.sample import sample_scene
from models.scenes.scene import Scene, Thing

SCENE = Scene(
    (
        Thing("circle", "red", "small", "plain", 0.17, 0.17, 0.09),
        Thing("square", "green", "small", "striped", 0.5, 0.5, 0.09),
        Thing("ring", "yellow", "large", "plain", 0.83, 0.83, 0.15),
        Thing("heart", "pink", "small", "plain", 0.83, 0.83, 0.066, 0.0, 2),
    )
)


def edited(words: str) -> Scene:
    return parse_edit(words).apply(SCENE)


def test_make_the_circle_blue() -> None:
    after = edited("make the circle blue")
    assert after.things[0].kind == ("small", "plain", "blue", "circle")
    assert after.things[1:] == SCENE.things[1:]


def test_make_the_square_large() -> None:
    after = edited("make the square large and dotted")
    assert after.things[1].kind == ("large", "dotted", "green", "square")
    assert after.things[1].radius > SCENE.things[1].radius


def test_add_a_star() -> None:
    after = edited("add a star")
    assert after.things[:4] == SCENE.things
    assert after.count(shape="star") == 1
    assert (int(after.things[4].x * 3), int(after.things[4].y * 3)) not in {(0, 0), (1, 1), (2, 2)}


def test_without_the_square_what_lay_inside_stays_inside() -> None:
    after = edited("without the square")
    assert after.count() == 3
    assert not after.has(shape="square")
    assert after.things[2].holder == 1


def test_without_the_ring_its_heart_lies_in_nothing() -> None:
    after = edited("without the ring")
    assert after.find(shape="heart")[0].holder == -1


def test_turn_the_circle_into_a_red_moon() -> None:
    assert edited("turn the circle into a large black star").things[0].kind == ("large", "plain", "black", "star")


def test_swap_the_circle_and_the_square() -> None:
    after = edited("swap the circle and the square")
    assert (after.things[0].x, after.things[1].x) == (0.5, 0.17)


@pytest.mark.parametrize(
    "words",
    ["make the star blue", "without the moon", "swap the ring and the circle", "make the ring small",
     "make the heart large", "turn the ring into a moon", "swap the circle and the star"],
)  # fmt: skip
def test_edits_that_the_scene_does_not_allow_are_refused(words: str) -> None:
    with pytest.raises(EditError):
        edited(words)


@pytest.mark.parametrize("words", ["", "please", "make it nicer", "add two", "make the circle"])
def test_words_that_name_no_edit_are_refused(words: str) -> None:
    with pytest.raises(EditError, match="edit"):
        parse_edit(words)


def test_a_full_scene_takes_no_more() -> None:
    full = next(s for s in map(sample_scene, range(100)) if len(s) == 6)
    with pytest.raises(EditError, match="at most 6"):
        Edit("add", None, Claim(shape="star")).apply(full)


def test_drawn_edits_change_the_truth_the_picture_and_nothing_unnamed() -> None:
    for i, scene in enumerate(map(sample_scene, range(150))):
        edit, after = random_edit(scene, i)
        assert not after.held_out
        assert after != scene
        assert (after.background, after.word, after.style) == (scene.background, scene.word, scene.style)
        assert not np.array_equal(render_array(scene, 72), render_array(after, 72))
        if edit.what == "change":
            untouched = [t for t in scene if edit.target is not None and not edit.target.fits(t)]
            assert all(t in after.things for t in untouched)
        if edit.what != "swap":
            assert caption(after, "full", i).query.matches(after)
            assert not caption(after, "full", i).query.matches(scene) or edit.what == "change"


def test_the_words_of_a_drawn_edit_do_the_same() -> None:
    for i, scene in enumerate(map(sample_scene, range(150))):
        edit, after = random_edit(scene, i)
        assert parse_edit(edit.text()).apply(scene, i) == after, edit.text()
