from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, BlipForImageTextRetrieval, BlipImageProcessorPil

from models.errors import InvalidInput, UnsupportedModel
from models.matcher import BlipMatcher, load_matcher
from tests.kit.scorer import ScorerKit

TEXTS = ["three shapes: a red circle, a blue star, a cross", "a large ring", "a red zebra left of a square"]


class TestBlip(ScorerKit):
    @pytest.fixture
    def load(self, blip: Path) -> Callable[[], BlipMatcher]:
        return lambda: load_matcher(str(blip), device="cpu")


@pytest.fixture(scope="module")
def matcher(blip: Path) -> BlipMatcher:
    return load_matcher(str(blip), device="cpu")


def test_the_score_is_the_probability_that_transformers_gives(
    matcher: BlipMatcher, blip: Path, pictures: list[np.ndarray]
) -> None:
    network = BlipForImageTextRetrieval.from_pretrained(blip, dtype=torch.float32).eval()
    processor, tokenizer = BlipImageProcessorPil.from_pretrained(blip), AutoTokenizer.from_pretrained(blip)
    pixels = processor(images=[Image.fromarray(picture) for picture in pictures], return_tensors="pt")["pixel_values"]
    for text in TEXTS:
        tokens = tokenizer([text] * len(pictures), return_tensors="pt")
        with torch.inference_mode():
            theirs = network(**tokens, pixel_values=pixels).itm_score.softmax(-1)[:, 1].numpy()
        query = matcher.prepare(text, "query")
        ours = matcher.score(query, [matcher.prepare(picture, "candidate") for picture in pictures])
        assert np.abs(ours - theirs).max() < 1e-5


def test_a_pair_scores_the_same_from_either_side(matcher: BlipMatcher, pictures: list[np.ndarray]) -> None:
    texts = [matcher.prepare(text, "candidate") for text in TEXTS]
    images = [matcher.prepare(picture, "candidate") for picture in pictures[:3]]
    by_text = np.array([matcher.score(text, images) for text in texts])
    by_image = np.array([matcher.score(image, texts) for image in images])
    assert np.abs(by_text - by_image.T).max() < 1e-5


def test_two_of_a_kind_are_not_compared(matcher: BlipMatcher) -> None:
    text = matcher.prepare("a red circle", "query")
    with pytest.raises(InvalidInput, match="text query cannot be compared with a text"):
        matcher.score(text, [text])


def test_other_kinds_of_models_are_refused(siglip: Path) -> None:
    with pytest.raises(UnsupportedModel, match="'siglip'"):
        load_matcher(str(siglip))
