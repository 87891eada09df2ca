from __future__ import annotations

from collections import Counter

import pytest

from models.experts.finding import Finding
from models.recipes.rules import fuse, plural
from models.scenes.captions import caption
from models.scenes.parse import parse
from models.scenes.sample import sample_scene
from models.scenes.scene import Scene

SPOT = (0.1, 0.1, 0.3, 0.3)


def thing(label: str, box: tuple[float, float, float, float] = SPOT) -> Finding:
    return Finding("detector", "thing", label, 0.9, box)


def word(label: str) -> Finding:
    return Finding("ocr", "word", label, 0.9)


@pytest.mark.parametrize(
    ("draft", "findings", "fused"),
    [
        ("a dog on a beach", [], "a dog on a beach"),
        ("a dog on a beach", [thing("dog")], "a dog on a beach"),
        ("a dog on a beach", [thing("dog"), thing("red ball")], "a dog on a beach, a red ball"),
        ("a circle", [thing("red circle")], "a red circle"),
        ("a shape", [thing("orange star")], "an orange star"),
        ("a red shape, on a noisy background", [thing("red star")], "on a noisy background, a red star"),
        ("three shapes", [thing("red star"), thing("red star")], "three shapes, two red stars"),
        ("two red stars", [thing("red star"), thing("red star")], "two red stars"),
        ("a red star left of a blue moon", [thing("blue moon")], "a red star left of a blue moon"),
        ("a red star", [thing("red star"), Finding("attributes", "attribute", "striped", 0.9, SPOT)], "a striped red star"),
        ("an orange star", [thing("orange star"), Finding("attributes", "attribute", "striped", 0.9, SPOT)],
         "a striped orange star"),
        ("a striped red star", [thing("red star"), Finding("attributes", "attribute", "striped", 0.9, SPOT)],
         "a striped red star"),
        ("a shop", [word("open")], "a shop, with the word open"),
        ("a shop that is open", [word("OPEN")], "a shop that is open"),
        ("a shop", [word("GRAND"), word("OPENING SALE")], 'a shop, with the words "GRAND" "OPENING SALE"'),
        ("a shop", [Finding("colours", "colour", "red", 0.5), Finding("colours", "colour", "white", 0.3)],
         "a shop, in red and white"),
    ],
)  # fmt: skip
def test_what_a_draft_lacks_is_added(draft: str, findings: list[Finding], fused: str) -> None:
    assert fuse(draft, findings) == fused
    assert fuse(fused, findings) == fused, "fusing again adds it again"


@pytest.mark.parametrize(("one", "many"), [("red star", "red stars"), ("cross", "crosses"), ("puppy", "puppies"),
                                           ("person", "people"), ("toy", "toys"), ("bus", "buses")])  # fmt: skip
def test_plurals(one: str, many: str) -> None:
    assert plural(one) == many


def truth(scene: Scene) -> list[Finding]:
    """What experts without a fault would find."""
    things = [Finding("detector", "thing", f"{one.colour} {one.shape}", 1.0, one.box) for one in scene.things]
    patterns = [Finding("attributes", "attribute", one.texture, 1.0, one.box) for one in scene.things]
    return [*things, *patterns, *([word(scene.word)] if scene.word else [])]


@pytest.mark.parametrize("kind", ["vague", "short", "partial", "full"])
def test_true_drafts_and_true_findings_give_true_captions(kind: str) -> None:
    """A caption names every thing with its pattern (where two look alike it cannot tell whose is whose), and the word
    that is painted, and nothing false."""
    for index in range(60):
        scene = sample_scene(index, split_name="validation")
        fused = fuse(caption(scene, kind, index).text, truth(scene))
        query = parse(fused)
        assert query is not None
        assert query.word == scene.word, fused
        labels = Counter((one.colour, one.shape) for one in scene.things)
        named = {(one.colour, one.shape, one.texture) for one in query.claims if one.texture is not None}
        assert {(one.colour, one.shape, one.texture) for one in scene.things if labels[one.colour, one.shape] == 1} <= (
            named | _told(query)
        ), fused
        for claim in query.claims:
            assert any(claim.fits(one) for one in scene.things), f"{claim} of {fused!r} is false"


def _told(query: object) -> set[tuple[str | None, str | None, str | None]]:
    relation = getattr(query, "relation", None)
    ends = (relation.subject, relation.object) if relation else ()
    return {(one.colour, one.shape, one.texture) for one in ends}
