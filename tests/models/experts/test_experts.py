"""Things, attributes and colours in scenes whose truth is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from models.detector import load_detector
from models.encoder import load_encoder
from models.errors import InvalidInput
from models.experts.attributes import AttributeRecogniser
from models.experts.colours import ColourNamer, colour_shares, oklab
from models.experts.finding import Finding, Found, crop, distinct
from models.experts.things import SceneExpert
from models.scenes.render import masks, render_array
from models.scenes.sample import sample_scene
from models.scenes.scene import Background, Scene, Thing
from models.scenes.vocabulary import COLOURS

SCENES = [sample_scene(index, split_name="validation") for index in range(16)]


class Bundled:
    """The bundled dual encoder as recipes see it."""

    def __init__(self) -> None:
        self._encoder = load_encoder("bundled", device="cpu")
        self.model = self._encoder.passport.model

    def images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        return _unit(self._encoder.encode_images([self._encoder.prepare_image(image) for image in images]))

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        return _unit(self._encoder.encode_texts([self._encoder.prepare_text(text) for text in texts]))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def detector() -> SceneExpert:
    return SceneExpert(load_detector(device="cpu"))


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return [render_array(scene, 224) for scene in SCENES]


def true_things(scene: Scene) -> Found:
    return [Finding("truth", "thing", f"{thing.colour} {thing.shape}", 1.0, thing.box) for thing in scene.things]


def test_things_are_found_by_name(detector: SceneExpert, images: list[np.ndarray]) -> None:
    right = total = 0
    for scene, found in zip(SCENES, detector.find(images), strict=True):
        assert isinstance(found, list)
        sure = sorted(one.label for one in found if one.score >= 0.5)
        total += 1
        right += sure == sorted(f"{thing.colour} {thing.shape}" for thing in scene.things)
    assert right >= 0.6 * total


def test_a_bad_image_leaves_its_neighbours_their_things(detector: SceneExpert, images: list[np.ndarray]) -> None:
    first, bad, last = detector.find([images[0], np.zeros((4, 4, 4), np.uint8), images[0]])
    assert isinstance(bad, InvalidInput)
    assert first == last != []


def test_patterns_of_things_are_told(detector: SceneExpert, images: list[np.ndarray]) -> None:
    recogniser = AttributeRecogniser(detector, Bundled())
    found = recogniser.of(images, [true_things(scene) for scene in SCENES])
    right = []
    for scene, attributes in zip(SCENES, found, strict=True):
        assert isinstance(attributes, list)
        assert [one.box for one in attributes] == [thing.box for thing in scene.things]
        right += [one.label == thing.texture for one, thing in zip(attributes, scene.things, strict=True)]
    assert sum(right) >= 0.85 * len(right), f"{sum(right)} of {len(right)}"
    bad = recogniser.of(images[:2], [InvalidInput("no"), []])
    assert isinstance(bad[0], InvalidInput)
    assert bad[1] == []


@pytest.mark.parametrize("name", list(COLOURS))
def test_a_colour_has_its_name_through_a_mask(name: str) -> None:
    thing = Thing("circle", name, "large", "plain", 0.5, 0.5, 0.15)
    scene = Scene((thing,), Background("plain", "sand", 0))
    image, (mask,) = render_array(scene, 224), masks(scene, 224)
    assert next(iter(colour_shares(image, mask))) == name
    by_box = ColourNamer().of(image, thing.box)
    assert by_box[0].label == name
    assert 0.5 < by_box[0].score < 1


def test_colours_of_a_whole_image_are_shares() -> None:
    image = np.zeros((300, 200, 3), np.uint8)
    image[:100] = (255, 255, 255)
    shares = colour_shares(image)
    assert list(shares) == ["black", "white"]
    assert shares["white"] == pytest.approx(1 / 3, abs=0.02)
    assert colour_shares(image, np.zeros((300, 200), bool)) == {}
    (found, bad) = ColourNamer().find([image, image[..., 0]])
    assert isinstance(bad, InvalidInput)
    assert isinstance(found, list)
    assert [one.label for one in found] == ["black", "white"]


def test_oklab_is_that_of_its_author() -> None:
    expected = [[1, 0, 0], [0, 0, 0], [0.62796, 0.22486, 0.12585], [0.45201, -0.03246, -0.31153]]
    found = oklab(np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 0, 255]]))
    assert np.abs(found - expected).max() < 1e-4


def test_findings_that_are_one_thing_are_one() -> None:
    dog = Finding("detector", "thing", "dog", 0.9, (0.1, 0.1, 0.5, 0.5))
    again = Finding("detector", "thing", "dog", 0.8, (0.12, 0.1, 0.5, 0.5))
    cat = Finding("detector", "thing", "cat", 0.95, (0.1, 0.1, 0.5, 0.5))
    other = Finding("detector", "thing", "dog", 0.3, (0.6, 0.6, 0.9, 0.9))
    assert distinct([again, other, cat, dog]) == [cat, dog, other]


def test_a_crop_holds_at_least_one_pixel() -> None:
    image = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    assert crop(image, (1.0, 1.0, 1.0, 1.0)).shape == (1, 1, 3)
    assert np.array_equal(crop(image, (0.0, 0.0, 1.0, 1.0), 0.5), image)
    assert crop(image, (0.3, 0.4, 0.6, 0.8)).shape == (2, 2, 3)
