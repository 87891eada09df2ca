from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from models.scenes.render import masks, png_bytes, render, render_array
from models.scenes.sample import sample_scene
from models.scenes.scene import Background, Scene, Thing
from models.scenes.vocabulary import COLOURS, SHAPES, STYLES, TEXTURES, TONES


@pytest.mark.parametrize("size", [64, 72, 224])
def test_masks_fill_their_boxes(size: int) -> None:
    for scene in map(sample_scene, range(60)):
        for thing, mask in zip(scene, masks(scene, size), strict=True):
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            found = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            wanted = np.array(thing.box) * size
            # A sharp tip covers less than half of its last pixels.
            tip = 3.5 if thing.shape in ("star", "triangle", "diamond", "moon", "arrow", "heart") else 1.5
            assert np.abs(found - wanted).max() <= max(tip, 0.012 * size), thing


def test_masks_of_different_things_are_disjoint() -> None:
    for scene in map(sample_scene, range(100)):
        assert masks(scene, 224).sum(axis=0).max() <= 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("texture", TEXTURES)
def test_a_thing_changes_the_pixels_of_its_mask_and_no_others(shape: str, texture: str) -> None:
    thing = Thing(shape, "red", "large", texture, 0.5, 0.5, 0.15)
    scene = Scene((thing,), Background("plain", "sand"))
    image = render_array(scene, 224).astype(int)
    differs = np.abs(image - np.array(TONES["sand"])).max(axis=2) > 60
    mask = masks(scene, 224)[0]
    # Stripes and dots are near the background's colour, so only the coloured part must differ.
    assert (differs & ~mask).sum() <= 0.1 * mask.sum()
    assert differs[mask].mean() > (0.9 if texture in ("plain", "outlined") else 0.4)
    if texture in ("plain", "outlined"):
        red = np.abs(image - np.array(COLOURS["red"])).max(axis=2) <= 8
        assert red[mask].mean() > (0.7 if texture == "plain" else 0.4)


def test_holes_of_rings_and_outlined_things_show_the_background() -> None:
    for shape, texture in (("ring", "plain"), ("circle", "outlined"), ("square", "outlined")):
        scene = Scene((Thing(shape, "blue", "large", texture, 0.5, 0.5, 0.15),), Background("plain", "mint"))
        assert tuple(render_array(scene, 224)[112, 112]) == TONES["mint"]


def test_the_same_scene_gives_the_same_pixels() -> None:
    for scene in map(sample_scene, range(40)):
        assert np.array_equal(render_array(scene, 72), render_array(scene, 72))


@pytest.mark.parametrize("style", STYLES)
def test_every_style_changes_the_picture(style: str) -> None:
    plain = replace(sample_scene(3), style=None)
    assert not np.array_equal(render_array(plain, 224), render_array(replace(plain, style=style), 224))


def test_a_painted_word_lies_in_its_row() -> None:
    scene = Scene((Thing("circle", "red", "small", "plain", 0.5, 0.5, 0.09),), Background("plain", "sky"))
    worded = replace(scene, word="stop", word_row=2)
    changed = (render_array(scene, 225) != render_array(worded, 225)).any(axis=2)
    rows = np.flatnonzero(changed.any(axis=1))
    assert len(rows) > 20
    assert rows.min() >= 150


def test_the_picture_looks_alike_at_every_size() -> None:
    for scene in map(sample_scene, range(10)):
        plain = replace(scene, style=None)
        large = render(plain, 224).resize((72, 72), Image.Resampling.BOX)
        difference = np.abs(np.asarray(large).astype(int) - render_array(plain, 72)).mean()
        assert difference < 4


def test_png_bytes_hold_the_picture() -> None:
    scene = sample_scene(5)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png_bytes(scene, 96)))), render_array(scene, 96))
