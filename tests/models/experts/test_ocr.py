from __future__ import annotations

import socket
from collections.abc import Iterator

import numpy as np
import pytest

from models.errors import InvalidInput
from models.experts.finding import Finding
from models.experts.ocr import TextReader
from models.scenes.render import render_array
from models.scenes.sample import sample_scene
from models.scenes.scene import Scene


@pytest.fixture(scope="module")
def reader() -> Iterator[TextReader]:
    """Made and used where no connection can be opened."""
    allowed = socket.socket.connect

    def refused(self: socket.socket, address: object) -> None:
        raise AssertionError(f"the reader opened a connection to {address}")

    socket.socket.connect = refused  # type: ignore[method-assign, assignment]
    yield TextReader()
    socket.socket.connect = allowed  # type: ignore[method-assign]


def scenes(worded: bool, count: int) -> list[Scene]:
    drawn = (sample_scene(index, split_name="validation") for index in range(1000))
    return [scene for scene in drawn if (scene.word is not None) == worded][:count]


def test_painted_words_are_read_where_they_are(reader: TextReader) -> None:
    shown = scenes(True, 8)
    found = reader.find([render_array(scene, 224) for scene in shown])
    read = 0
    for scene, findings in zip(shown, found, strict=True):
        assert isinstance(findings, list)
        words = [one for one in findings if one.label.lower() == scene.word]
        read += len(words) == 1
        for word in words:
            assert (word.expert, word.kind) == ("ocr", "word")
            left, top, right, bottom = word.box
            assert 0 <= left < right <= 1
            assert top < (scene.word_row + 0.5) / 3 < bottom, "the box is elsewhere"
    assert read >= 7


def test_outlines_of_shapes_are_seldom_read_as_words(reader: TextReader) -> None:
    found = reader.find([render_array(scene, 224) for scene in scenes(False, 8)])
    assert sum(len(findings) for findings in found if isinstance(findings, list)) <= 1


def test_a_bad_image_leaves_its_neighbours_their_words(reader: TextReader) -> None:
    image = render_array(scenes(True, 1)[0], 224)
    first, bad, last = reader.find([image, np.zeros((4, 4), np.uint8), image])
    assert isinstance(bad, InvalidInput)
    assert first == last
    assert isinstance(first, list)
    assert isinstance(first[0], Finding)


@pytest.mark.parametrize(
    "shape",
    [(1, 1, 3), (1, 3000, 3), (3000, 1, 3), (40, 400, 3), (16, 2000, 3), (16, 2001, 3), (17, 2050, 3), (20, 20, 3)],
)
def test_images_of_any_shape_are_looked_at(reader: TextReader, shape: tuple[int, int, int]) -> None:
    assert reader.find([np.zeros(shape, np.uint8)]) == [[]]
