from __future__ import annotations

import pytest

from models.scenes.captions import KINDS, WRONG, caption, condition_caption, contrast, wrong_caption
from models.scenes.parse import parse
from models.scenes.query import Claim, Query, Relation
from models.scenes.sample import sample_scene
from models.scenes.scene import Scene, Thing
from models.scenes.tokens import UNKNOWN_ID, build_tokenizer

SCENES = [sample_scene(i, split_name="validation") for i in range(300)]


@pytest.mark.parametrize("kind", KINDS)
def test_captions_are_true_of_their_scene(kind: str) -> None:
    assert all(caption(scene, kind, i).query.matches(scene) for i, scene in enumerate(SCENES))


@pytest.mark.parametrize("what", WRONG)
def test_wrong_captions_are_false_of_their_scene(what: str) -> None:
    wrong = [(s, c) for i, s in enumerate(SCENES) if (c := wrong_caption(s, i, what)) is not None]
    assert len(wrong) > len(SCENES) / 2
    assert not any(c.query.matches(s) for s, c in wrong)


@pytest.mark.parametrize("what", WRONG)
def test_a_contrast_is_true_and_false_and_differs_in_few_words(what: str) -> None:
    for i, scene in enumerate(SCENES):
        pair = contrast(scene, i, what)
        if pair is None:
            continue
        true, wrong = pair
        assert true.query.matches(scene)
        assert not wrong.query.matches(scene)
        told, mistold = true.text.split(), wrong.text.split()
        if what != "relation":
            assert len(told) == len(mistold)
            # One word, and the article or the plural with it.
            assert 1 <= sum(a != b for a, b in zip(told, mistold, strict=True)) <= 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_says_what_the_claims_are(kind: str) -> None:
    for i, scene in enumerate(SCENES):
        told = caption(scene, kind, i)
        assert parse(told.text) == told.query


def test_the_text_of_a_wrong_caption_is_false_too() -> None:
    for i, scene in enumerate(SCENES):
        wrong = wrong_caption(scene, i)
        assert wrong is not None
        query = parse(wrong.text)
        assert query is not None
        assert not query.matches(scene)


def test_a_wrong_attribute_differs_from_the_truth_in_one_attribute() -> None:
    for i, scene in enumerate(SCENES):
        wrong = wrong_caption(scene, i, "attribute")
        if wrong is None:
            continue
        kinds = {thing.kind for thing in scene}
        claimed = [(c.size, c.texture, c.colour, c.shape) for c in wrong.query.claims if c.shape]
        (changed,) = [kind for kind in claimed if kind not in kinds] or [None]
        if changed is not None:
            assert min(sum(a != b for a, b in zip(changed, kind, strict=True)) for kind in kinds) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("language", ["en", "de", "es"])
def test_every_word_of_every_caption_has_a_token(kind: str, language: str) -> None:
    tokenizer = build_tokenizer()
    for i, scene in enumerate(SCENES):
        assert UNKNOWN_ID not in tokenizer.encode(caption(scene, kind, i, language).text).ids


def test_captions_in_three_languages() -> None:
    claims = (Claim(count=2), Claim("red", "star", "large", "striped"), Claim("blue", "diamond", "small", "plain"))
    query = Query(claims, None, "noisy", "stop", "sketch")
    assert query.text() == (
        "two shapes: a large striped red star, a small plain blue diamond, on a noisy background, with the word stop,"
        " as a sketch"
    )
    assert query.text("de") == (
        "zwei Formen: ein großer gestreifter roter Stern, eine kleine einfarbige blaue Raute, auf verrauschtem"
        " Hintergrund, mit dem Wort stop, als Skizze"
    )
    assert query.text("es") == (
        "dos figuras: una estrella roja rayada grande, un rombo azul liso pequeño, sobre fondo ruidoso, con la palabra"
        " stop, como boceto"
    )


def test_the_vague_condition_mostly_gives_vague_captions() -> None:
    kinds = [condition_caption(scene, "vague", i).kind for i, scene in enumerate(SCENES)]
    assert 0.6 < kinds.count("vague") / len(kinds) < 0.8
    assert {condition_caption(scene, "uniform", 0).kind for scene in SCENES} == {"full"}


def test_captions_are_the_same_again() -> None:
    assert [caption(s, "partial", 7) for s in SCENES] == [caption(s, "partial", 7) for s in SCENES]


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="full, long"):
        caption(SCENES[0], "complete", 0)
    with pytest.raises(ValueError, match="attribute, count"):
        wrong_caption(SCENES[0], 0, "colour")


def thing(shape: str, colour: str, x: float = 0.5, y: float = 0.5, **other: object) -> Thing:
    given: dict[str, object] = {"size": "small", "texture": "plain", "radius": 0.09, **other}
    return Thing(shape=shape, colour=colour, x=x, y=y, **given)  # type: ignore[arg-type]


TWO = Scene((thing("circle", "red", 0.2), thing("star", "blue", 0.8)))


@pytest.mark.parametrize(
    ("text", "true"),
    [
        ("a red circle", True),
        ("red circle and a blue star", True),
        ("a blue circle", False),
        ("something blue", True),
        ("two shapes", True),
        ("three things", False),
        ("two circles", False),
        ("one circle", True),
        ("no hearts", True),
        ("without a star", False),
        ("a circle, a circle", False),
        ("a circle to the left of a star", True),
        ("a star left of a circle", False),
        ("a star inside a circle", False),
        ("a small circle on a plain background", True),
        ("a circle on a noisy background", False),
        ("a circle with the word stop", False),
        ("a star as a sketch", False),
    ],
)
def test_searches_are_checked_by_the_truth(text: str, true: bool) -> None:
    query = parse(text)
    assert query is not None
    assert query.matches(TWO) is true


def test_words_of_another_world_are_no_query() -> None:
    assert parse("a photo of my cat") is None
    assert parse("") is None


def test_inside_and_larger_hold_by_the_truth() -> None:
    ring = thing("ring", "red", size="large", radius=0.15)
    scene = Scene((ring, thing("heart", "pink", holder=0, radius=0.066)))
    heart, around = Claim(shape="heart"), Claim(shape="ring")
    assert Query(relation=Relation(heart, "inside", around)).matches(scene)
    assert Query(relation=Relation(around, "larger than", heart)).matches(scene)
    assert not Query(relation=Relation(around, "inside", heart)).matches(scene)
