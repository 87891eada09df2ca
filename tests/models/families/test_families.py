"""Every family against transformers: images of many sizes and texts of many lengths, together and alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.encoder import Encoder, load_encoder
from models.errors import NoTextTower
from models.families import FAMILIES
from tests.models.families.builders import CHINESE, DUAL, IMAGE_ONLY, own_images, own_texts
from tests.models.test_encoder import TEXTS, assert_same, images_of, texts_of

ALL = {**DUAL, **IMAGE_ONLY}
WORDS = [*TEXTS, *CHINESE]


@pytest.fixture(scope="module", params=ALL)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ALL[request.param](tmp_path_factory.mktemp(request.param) / request.param)


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return load_encoder(str(folder), device="cpu")


def test_every_family_is_tested() -> None:
    assert {*ALL, "open_clip"} == set(FAMILIES)  # open_clip has a reference of its own


def test_vectors_equal_those_of_transformers(folder: Path, encoder: Encoder, pictures: list[np.ndarray]) -> None:
    assert encoder.passport.kind == folder.name
    assert_same(images_of(encoder, pictures), own_images(folder, pictures))
    if folder.name in DUAL:
        assert_same(texts_of(encoder, WORDS), own_texts(folder, WORDS))


def test_a_vector_does_not_depend_on_its_batch(encoder: Encoder, pictures: list[np.ndarray]) -> None:
    alone = np.concatenate([images_of(encoder, [picture]) for picture in pictures])
    assert np.abs(images_of(encoder, pictures) - alone).max() < 1e-5
    assert np.abs(images_of(encoder, pictures * 4)[-len(pictures) :] - alone).max() < 1e-5
    if "text" in encoder.modalities:
        alone = np.concatenate([texts_of(encoder, [text]) for text in WORDS])
        assert np.abs(texts_of(encoder, WORDS) - alone).max() < 1e-5
        assert np.abs(texts_of(encoder, WORDS[::-1] * 5)[-len(WORDS) :][::-1] - alone).max() < 1e-5


def test_the_passport_says_what_is_encoded(folder: Path, encoder: Encoder) -> None:
    passport = encoder.passport
    assert passport.modalities == encoder.modalities == (("image", "text") if folder.name in DUAL else ("image",))
    assert (passport.tokenizer is None) == (passport.text_padding is None) == (folder.name in IMAGE_ONLY)
    assert passport.differences(load_encoder(str(folder), device="cpu", dtype="bfloat16").passport) == []


def test_an_encoder_of_images_says_so_of_a_text(folder: Path, encoder: Encoder) -> None:
    if folder.name in DUAL:
        assert encoder.prepare_text("a cat").tokens > 0
        return
    for encode in (lambda: encoder.prepare_text("a cat"), lambda: encoder.encode_texts([])):
        with pytest.raises(NoTextTower, match=rf"{folder.name} encodes images only: search with an image"):
            encode()
