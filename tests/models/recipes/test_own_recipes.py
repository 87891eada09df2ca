"""The recipes that need no language model, with the bundled models on scenes that they have never seen."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from models.captioner import FULL_PROMPT, load_captioner
from models.encoder import load_encoder
from models.errors import InvalidInput, ModelError, NonFinite
from models.matcher import load_matcher
from models.protocols import Decoding
from models.recipes import Known, Lacking, Subject, Tools, Written, load_recipe
from models.recipes.judge import Candidate, judge, repetition
from models.recipes.local import InTurn, LocalMatcher, LocalVectors, Turns
from models.scenes.parse import parse
from models.scenes.render import render_array
from models.scenes.sample import sample_scene

SCENES = [sample_scene(i, split_name="validation", things=(2, 4)) for i in range(7000, 7012)]
PLAIN = {"prompt": "", "max_tokens": 64, "temperature": 0.0, "top_p": 1.0, "seed": 0}
BEST = {**PLAIN, "n": 6, "k": 5, "keep": 1, "temperature": 0.7, "top_p": 0.95, "sharpness": 50.0, "grammar": 1.0,
        "repetition": 1.0, "length": 0.02}  # fmt: skip
WRONG = {"kinds": ("count", "colour", "relation"), "each": 1, "sources": ("own", "describe"), "margin": 0.0, "seed": 0}


def given(defaults: dict[str, Any], **other: Any) -> Any:
    return SimpleNamespace(**defaults | other)


@dataclass
class World:
    tools: Tools
    subjects: list[Subject]


@pytest.fixture(scope="module")
def world() -> World:
    turns = Turns()
    vectors = LocalVectors(load_encoder("bundled", device="cpu"), turns)  # type: ignore[arg-type]
    images = [render_array(scene, 224) for scene in SCENES]
    units = vectors.images(images)
    cosines = units @ units.T
    subjects = []
    for row, image in enumerate(images):
        near = [int(place) for place in np.argsort(-cosines[row]) if place != row][:5]
        subjects.append(
            Subject(row + 1, f"scene {row}", image, vector=units[row], neighbours=units[near],
                    neighbour_ids=tuple(place + 1 for place in near))
        )  # fmt: skip
    tools = Tools(
        captioner=lambda: InTurn(load_captioner(device="cpu"), turns),
        matcher=lambda: LocalMatcher(load_matcher(device="cpu"), turns),
        encoder=lambda: vectors,
    )
    return World(tools, subjects)


def only(answers: list[Any]) -> list[Written]:
    assert all(len(answer) == 1 for answer in answers)
    return [answer[0] for answer in answers]


def test_plain_captions_are_the_captioners_own(world: World) -> None:
    written = only(load_recipe("describe").write(world.subjects, world.tools, given(PLAIN, beams=1)))
    captioner = world.tools.captioner
    captions = captioner.caption([captioner.prepare_image(subject.image) for subject in world.subjects])
    assert [(one.text, one.score) for one in written] == [(one.text, one.score) for one in captions]


def test_guidance_prefers_words_that_this_image_has(world: World) -> None:
    recipe = load_recipe("guided")
    plain = only(recipe.write(world.subjects, world.tools, given(PLAIN, gamma=1.0)))
    assert plain == only(load_recipe("describe").write(world.subjects, world.tools, given(PLAIN, beams=1)))
    guided = only(recipe.write(world.subjects, world.tools, given(PLAIN, gamma=3.0)))
    assert [one.text for one in guided] != [one.text for one in plain]
    assert all(parse(one.text) is not None for one in guided)


def test_the_best_of_n_is_told_from_its_neighbours_at_least_as_well_as_the_likeliest(world: World) -> None:
    params = given(BEST)
    written = only(load_recipe("best-of-n").write(world.subjects, world.tools, params))
    better = 0
    for subject, one in zip(world.subjects, written, strict=True):
        plain = one.provenance["likeliest"]
        texts = world.tools.encoder.texts([plain, one.text])
        assert subject.vector is not None
        pool = [Candidate(plain, None), Candidate(one.text, None)]
        first, best = judge(pool, texts, subject.vector, subject.neighbours, given(BEST, grammar=0.0))
        better += best.scores["identified"] > first.scores["identified"]
        assert one.score == pytest.approx(sum(one.scores.values()))
        assert one.provenance["told_from"] == list(subject.neighbour_ids)
    assert better >= 3
    assert written == only(load_recipe("best-of-n").write(world.subjects, world.tools, params))  # drawn by seed


def test_word_salad_does_not_win(world: World) -> None:
    captioner = load_captioner(device="cpu")
    params = given(BEST, prompt="")
    answers = load_recipe("best-of-n").write(world.subjects, world.tools, params)
    for subject, one in zip(world.subjects, only(answers), strict=True):
        pixels = [captioner.prepare_image(subject.image)]
        (full,) = captioner.caption(pixels, FULL_PROMPT)
        stuffed = " ".join(full.text.replace(",", "").split() * 2)
        texts = [one.provenance["likeliest"], one.text, stuffed]
        likelihood = captioner.likelihood(pixels * 3, texts)
        pool = [Candidate(text, float(value)) for text, value in zip(texts, likelihood, strict=True)]
        assert subject.vector is not None
        judged = judge(pool, world.tools.encoder.texts(texts), subject.vector, subject.neighbours, params)
        assert max(judged, key=lambda each: each.score).candidate.text != stuffed


def test_without_neighbours_the_cosine_counts(world: World) -> None:
    subject = world.subjects[0]
    assert subject.vector is not None
    texts = world.tools.encoder.texts(["a red circle", "a blue star"])
    for none in (None, np.zeros((0, texts.shape[1]), np.float32)):
        judged = judge(
            [Candidate("a red circle", -1.0), Candidate("a blue star", -1.0)], texts, subject.vector, none, given(BEST)
        )
        for each, text in zip(judged, texts, strict=True):
            assert each.scores["identified"] == pytest.approx(2.5 * max(0.0, float(text @ subject.vector)), abs=1e-6)


def test_repetition_is_a_share() -> None:
    assert repetition("a red ring and one blue star") == 0
    assert repetition("red red red red") == pytest.approx((0.75 + 2 / 3) / 2)
    assert repetition("") == 0


def test_wrong_captions_fit_worse_than_what_they_are_made_from(world: World) -> None:
    captioner = world.tools.captioner
    pixels = [captioner.prepare_image(subject.image) for subject in world.subjects]
    told = captioner.caption(pixels, FULL_PROMPT)
    subjects = [
        Subject(subject.item_id, subject.name, subject.image, stored=(Known("describe", one.text, "en"),))
        for subject, one in zip(world.subjects, told, strict=True)
    ]
    answers = load_recipe("counterfactual").write(subjects, world.tools, given(WRONG))
    false = wrong = 0
    for scene, one, answer in zip(SCENES, told, answers, strict=True):
        assert not isinstance(answer, ModelError)
        for each in answer:
            assert each.negative
            assert each.provenance["from"] == one.text
            assert each.scores["true"] > each.scores["wrong"]
            claim = parse(each.text)
            wrong += 1
            false += claim is not None and not claim.matches(scene)
    assert wrong > 12
    assert false / wrong > 0.9


def test_nothing_to_make_wrong_is_an_error_of_that_image_alone(world: World) -> None:
    pictures = world.subjects[:2]
    subjects = [
        Subject(1, "vague", pictures[0].image, own=("a picture",)),
        Subject(2, "exact", pictures[1].image, own=("ten red circles",)),
        Subject(3, "deutsch", pictures[1].image, lang="de", own=("zwei rote Kreise",)),
    ]
    vague, exact, german = load_recipe("counterfactual").write(subjects, world.tools, given(WRONG, margin=-1.0))
    assert isinstance(vague, InvalidInput)
    assert not isinstance(exact, ModelError)
    assert isinstance(german, InvalidInput)
    assert "English" in str(german)


def test_a_tool_that_is_not_there_is_named(world: World) -> None:
    with pytest.raises(Lacking, match="no captioner"):
        load_recipe("describe").write(world.subjects[:1], Tools(), given(PLAIN, beams=1))
    with pytest.raises(Lacking, match="no matcher"):
        load_recipe("counterfactual").model(Tools(captioner=lambda: world.tools.captioner), given(WRONG))


def test_parameters_that_exclude_each_other_are_refused(world: World) -> None:
    with pytest.raises(InvalidInput, match="sampling takes one beam"):
        load_recipe("describe").write(world.subjects[:1], world.tools, given(PLAIN, beams=2, temperature=1.0))


class OneFails:
    """The bundled captioner, but for one image, of which it makes no sense."""

    def __init__(self, captioner: Any, bad: np.ndarray) -> None:
        self.identity, self.device = captioner.identity, captioner.device
        self._captioner, self._bad = captioner, captioner.prepare_image(bad)

    def prepare_image(self, image: np.ndarray) -> Any:
        return self._captioner.prepare_image(image)

    def draw(self, pixels: Any, n: int, prompt: str | None = None, decoding: Decoding = Decoding()) -> Any:  # noqa: B008
        bad = [place for place, each in enumerate(pixels) if np.array_equal(each, self._bad)]
        if bad:
            raise NonFinite(bad, "captions", "float32")
        return self._captioner.draw(pixels, n, prompt, decoding)


def test_an_image_that_cannot_be_captioned_fails_alone(world: World) -> None:
    bad = world.subjects[2]
    tools = Tools(captioner=lambda: OneFails(world.tools.captioner, bad.image), encoder=lambda: world.tools.encoder)
    answers = load_recipe("best-of-n").write(world.subjects[:4], tools, given(BEST, n=2))
    assert [isinstance(answer, NonFinite) for answer in answers] == [False, False, True, False]
