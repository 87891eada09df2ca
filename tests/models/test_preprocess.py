from __future__ import annotations

import resource
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from models.errors import BrokenCheckpoint, InvalidInput, UnsupportedModel
from models.image_config import read_image_config

SIDE = 32
CLIP = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
SIGLIP = {"size": {"height": SIDE, "width": SIDE}}
RAW = {"do_rescale": False, "do_normalize": False}


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def own(processor: type, config: dict, image: np.ndarray) -> np.ndarray:
    """The pixels of transformers' own processor, back in height, width, channel order."""
    found = processor(**config, **RAW)([image], input_data_format="channels_last")["pixel_values"][0]
    return np.moveaxis(np.asarray(found), 0, -1)


@settings(max_examples=60, deadline=None)
@given(st.integers(5, 160), st.integers(5, 160), st.sampled_from([0, 1, 2, 3, 4, 5]))
def test_clip_pixels_equal_those_of_transformers(height: int, width: int, resample: int) -> None:
    config = {**CLIP, "resample": resample}
    image = noise(height, width)
    ours = read_image_config(config, "CLIP").apply(image)
    assert np.array_equal(ours, own(CLIPImageProcessorPil, config, image))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 150), st.integers(1, 150), st.sampled_from([0, 1, 2, 3, 4, 5]))
def test_siglip_pixels_equal_those_of_transformers(height: int, width: int, resample: int) -> None:
    config = {**SIGLIP, "resample": resample}
    image = noise(height, width)
    ours = read_image_config(config, "Siglip").apply(image)
    assert np.array_equal(ours, own(SiglipImageProcessorPil, config, image))


@pytest.mark.parametrize("shape", [(20, 23), (31, 90), (90, 31), (40, 40)])
def test_a_crop_larger_than_the_image_is_padded_as_transformers_does(shape: tuple[int, int]) -> None:
    for config in (
        {"size": {"shortest_edge": 25}, "crop_size": {"height": 32, "width": 32}},
        {"do_resize": False, "crop_size": 32},
        {"size": {"height": 40, "width": 21}, "crop_size": {"height": 32, "width": 32}},
    ):
        ours = read_image_config(config, "CLIP").apply(noise(*shape))
        theirs = {**config, "crop_size": {"height": 32, "width": 32}}
        assert np.array_equal(ours, own(CLIPImageProcessorPil, theirs, noise(*shape)))


@pytest.mark.parametrize("shape", [(1, 700), (700, 1), (3, 900), (11, 500), (4000, 90), (40, 1400)])
def test_the_window_of_a_long_strip_equals_the_whole_to_one_level(shape: tuple[int, int]) -> None:
    def difference(image: np.ndarray, resample: int) -> np.ndarray:
        config = {**CLIP, "resample": resample}
        ours = read_image_config(config, "CLIP").apply(image).astype(int)
        return np.abs(ours - own(CLIPImageProcessorPil, config, image))

    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
    smooth = np.stack([128 + 80 * np.sin(rows / 9 + columns / 7 + phase) for phase in range(3)], axis=2)
    assert difference(noise(*shape), resample=2).max() <= 1
    assert difference(smooth.astype(np.uint8), resample=3).max() <= 1
    assert difference(noise(*shape), resample=3).mean() < 1


@pytest.mark.parametrize("shape", [(1, 20_000), (20_000, 1), (2, 60_000)])
def test_a_panorama_costs_no_memory(shape: tuple[int, int]) -> None:
    pipeline = read_image_config({}, "CLIP")  # 224 pixels: the whole would be 3 GB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert pipeline.apply(noise(*shape)).shape == (224, 224, 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes


def test_one_pixel_becomes_a_field_of_its_colour() -> None:
    pixel = np.array([[[10, 200, 30]]], np.uint8)
    for kind, config in (("CLIP", CLIP), ("Siglip", SIGLIP)):
        prepared = read_image_config(config, kind).apply(pixel)
        assert prepared.shape == (SIDE, SIDE, 3)
        assert (prepared == pixel).all()


def test_the_result_is_a_pure_function_of_the_input() -> None:
    pipeline = read_image_config(CLIP, "CLIP")
    image = noise(90, 70)
    kept = image.copy()
    strided = np.repeat(image, 2, axis=1)[:, ::2]
    frozen = image.copy()
    frozen.setflags(write=False)
    expected = pipeline.apply(image)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(pipeline.apply, [image, strided, frozen] * 20))
    assert all(np.array_equal(result, expected) for result in results)
    assert np.array_equal(image, kept)
    small = noise(SIDE, SIDE)
    assert not np.shares_memory(pipeline.apply(small), small)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_anything_but_uint8_rgb_is_refused_with_its_shape(image: np.ndarray) -> None:
    with pytest.raises(InvalidInput, match=r"uint8 RGB.*got (uint8|float32) \("):
        read_image_config(CLIP, "CLIP").apply(image)


def test_old_and_new_spellings_of_one_configuration_have_one_digest() -> None:
    new = {**CLIP, "image_processor_type": "CLIPImageProcessor", "do_convert_rgb": True, "resample": 3}
    old = {"size": SIDE, "crop_size": SIDE, "feature_extractor_type": "CLIPFeatureExtractor"}
    fast = {**CLIP, "image_processor_type": "CLIPImageProcessorFast"}
    digests = {read_image_config(config, "CLIP").digest for config in (new, old, fast)}
    assert len(digests) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"resample": 2},
        {"size": {"shortest_edge": SIDE + 4}},
        {"size": {"height": SIDE, "width": SIDE}},
        {"do_center_crop": False},
        {"image_mean": [0.5, 0.5, 0.5]},
        {"image_std": 0.5},
        {"do_rescale": False},
        {"do_normalize": False},
        {"do_resize": False},
    ],
)
def test_every_rule_is_in_the_digest(change: dict) -> None:
    assert read_image_config({**CLIP, **change}, "CLIP").digest != read_image_config(CLIP, "CLIP").digest


def test_what_the_pipeline_cannot_do_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedModel, match="'DonutImageProcessor' is not supported; expected CLIPImageProcessor, "):
        read_image_config({"image_processor_type": "DonutImageProcessor"}, "CLIP")
    with pytest.raises(UnsupportedModel, match="do_pad"):
        read_image_config({"do_pad": True}, "CLIP")
    with pytest.raises(UnsupportedModel, match="resample is 9"):
        read_image_config({"resample": 9}, "CLIP")
    with pytest.raises(BrokenCheckpoint, match="longest_edge"):
        read_image_config({"size": {"longest_edge": 20}}, "CLIP")
    with pytest.raises(BrokenCheckpoint, match="image_mean"):
        read_image_config({"image_mean": [0.5]}, "CLIP")
