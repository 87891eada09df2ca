from __future__ import annotations

import pytest

from models.recipes.wrong import changes


@pytest.mark.parametrize(
    ("text", "kind", "first"),
    [
        ("two red circles", "count", "three red circles"),
        ("Ten men in a boat", "count", "Nine men in a boat"),
        ("a red circle and an orange star", "colour", "an orange circle and a red star"),
        ("a black cat", "colour", "a white cat"),
        ("an orange cat", "colour", "a yellow cat"),
        ("a red ring left of a blue star, on a plain background", "relation",
         "a blue star left of a red ring, on a plain background"),
        ("A dog to the left of a cat.", "relation", "a cat to the left of A dog."),
        ("a cat above the clouds", "relation", "the clouds above a cat"),
        ("it stands behind", "relation", "it stands in front of"),
    ],
)  # fmt: skip
def test_one_thing_is_made_wrong(text: str, kind: str, first: str) -> None:
    found = changes(text, kind)
    assert found[0].text == first
    assert all(change.kind == kind and change.text != text for change in found)
    assert len({change.text for change in found}) == len(found)


@pytest.mark.parametrize("kind", ["count", "colour", "relation"])
def test_what_says_nothing_of_the_kind_is_left_alone(kind: str) -> None:
    assert changes("a cat sleeps on the sofa, scored and reddish, at tension", kind) == []


def test_colours_that_are_nearly_the_same_are_no_mistake() -> None:
    assert not [change for change in changes("a grey cat", "colour") if "gray" in change.text]
    assert not [change for change in changes("a teal cat", "colour") if change.new in ("cyan", "turquoise")]
