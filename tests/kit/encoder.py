"""The kit of encoders: `ImageEncoderKit` for images alone, `EncoderKit` for images and texts of one space."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import pytest

from models.errors import InvalidInput, NonFinite
from models.passport import Passport
from models.protocols import ImageEncoder, ImageTextEncoder
from tests.kit.inputs import (
    BAD_TEXT,
    TEXTS,
    assert_json,
    assert_public_name,
    assert_refused,
    bad_pictures,
    extreme_pictures,
    in_threads,
    jpeg,
    loaded_once,
    pictures,
    poison,
    prepared_from,
)


class Reference(Protocol):
    """What the model's own library computes, not normalised; `texts` is asked of models that take texts only."""

    def images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """uint8 RGB images of any size to (n, dim)."""

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Texts to (n, dim)."""


class ImageEncoderKit:
    """Inherit, and define a fixture `load`: a function without arguments that loads the encoder.

    Attributes:
        tolerance: most that a component of a vector may change with its batch.
        reference_tolerance: most that it may differ from the reference.
    """

    tolerance = 1e-5
    reference_tolerance = 1e-4

    @pytest.fixture
    def encoder(self, load: Callable[[], Any]) -> Any:
        return loaded_once(type(self), load)

    @pytest.fixture
    def poisoned(self, load: Callable[[], Any]) -> Any:
        """The encoder with weights of NaN; override it where they are not torch's."""
        return poison(load())

    @pytest.fixture
    def reference(self) -> Reference | None:
        """The model's own library, if it can be asked."""
        return None

    def test_images_give_one_float32_row_each(self, encoder: ImageEncoder) -> None:
        found = _images(encoder, pictures())
        assert found.dtype == np.float32
        assert found.shape == (len(pictures()), encoder.dim)
        assert np.isfinite(found).all()

    def test_no_images_give_no_rows(self, encoder: ImageEncoder) -> None:
        found = encoder.encode_images([])
        assert (found.shape, found.dtype) == ((0, encoder.dim), np.float32)

    def test_an_image_is_the_same_alone_and_in_any_batch(self, encoder: ImageEncoder) -> None:
        alone = np.concatenate([_images(encoder, [picture]) for picture in pictures()])
        _assert_independent(lambda chosen: _images(encoder, chosen), pictures(), alone, self.tolerance)

    def test_an_image_gives_the_same_vector_again(self, encoder: ImageEncoder) -> None:
        assert np.array_equal(_images(encoder, pictures()), _images(encoder, pictures()))

    def test_different_images_get_different_vectors(self, encoder: ImageEncoder) -> None:
        _assert_distinct(_images(encoder, pictures()), 10 * self.tolerance)

    def test_image_vectors_keep_their_length(self, encoder: ImageEncoder) -> None:
        _assert_not_normalised(encoder, _images(encoder, pictures()))

    def test_extreme_images_get_vectors(self, encoder: ImageEncoder) -> None:
        for picture in extreme_pictures():
            found = _images(encoder, [picture])
            assert found.shape == (1, encoder.dim)
            assert np.isfinite(found).all()

    def test_bad_images_are_refused_and_their_neighbours_go_on(self, encoder: ImageEncoder) -> None:
        before = _images(encoder, pictures()[:2])
        for bad in bad_pictures():
            assert_refused(encoder.prepare_image, bad)
        assert np.array_equal(_images(encoder, pictures()[:2]), before)

    def test_images_are_prepared_by_many_threads(self, encoder: ImageEncoder) -> None:
        expected = [encoder.prepare_image(picture) for picture in pictures()]
        found = in_threads(encoder.prepare_image, pictures())
        for index, prepared in enumerate(found):
            assert np.array_equal(prepared, expected[index % len(expected)]), "threads disturb each other"

    def test_image_batches_made_ahead_give_the_same_vectors(self, encoder: ImageEncoder) -> None:
        prepared = [encoder.prepare_image(picture) for picture in pictures()]
        _assert_made_ahead(encoder, encoder.collate_images, prepared, encoder.encode_images(prepared), self.tolerance)

    def test_an_image_decoded_to_the_size_asked_for_is_prepared_alike(self, encoder: ImageEncoder) -> None:
        """A JPEG whose least detail is one and a half pixels of the model: a scaled decoding must not lose it."""
        side = min(encoder_sized(encoder).shape[:2])
        size = (16 * side, 12 * side)
        for given in (size, size[::-1], (size[0] + 1, size[1])):
            asked = encoder.decode_size(*given)
            assert asked in [(given[0] / n, given[1] / n) for n in (1, 2, 4, 8)], f"{asked} is no scaling of {given}"
        file = jpeg(size, (2 * size[0] // 36, 2 * size[1] // 36))
        whole, scaled = (prepared_from(encoder, file, at) for at in (size, encoder.decode_size(*size)))
        assert whole.shape == scaled.shape
        gap = np.abs(whole.astype(float) - scaled.astype(float)).mean()
        assert gap < 1, f"decoded to {encoder.decode_size(*size)} it differs by {gap:.2f} of 255 on average"

    def test_preparing_leaves_the_image_alone(self, encoder: ImageEncoder) -> None:
        for picture in [*pictures(), encoder_sized(encoder)]:
            before = picture.copy()
            prepared = encoder.prepare_image(picture)
            assert np.array_equal(picture, before), "preparing changed the image"
            assert not np.shares_memory(prepared, picture), "the caller may reuse its buffer while the batch waits"

    def test_images_that_give_nan_are_refused_by_position(self, poisoned: ImageEncoder) -> None:
        with pytest.raises(NonFinite) as caught:
            _images(poisoned, pictures()[:3])
        assert caught.value.indices == (0, 1, 2)

    def test_the_passport_is_complete_and_survives_json(self, encoder: ImageEncoder) -> None:
        passport = encoder.passport
        assert_json(passport.to_dict())
        assert Passport.from_dict(passport.to_dict()) == passport
        assert_public_name(passport.model)
        assert passport.dim == encoder.dim
        unsaid = [name for name in ("kind", "weights", "preprocessing", "pooling", "normalisation", "dtype")
                  if not getattr(passport, name)]  # fmt: skip
        assert not unsaid, f"the passport says nothing of {unsaid}"
        assert passport.image_pipeline, "the passport does not say how images are prepared"

    def test_loading_again_gives_the_same_passport_and_vectors(
        self, encoder: ImageEncoder, load: Callable[[], Any]
    ) -> None:
        before = copy.deepcopy(encoder.passport)
        again: ImageEncoder = load()
        assert again.passport == before
        assert np.abs(_images(again, pictures()) - _images(encoder, pictures())).max() <= self.tolerance
        assert encoder.passport == before, "encoding changed the passport"

    def test_images_agree_with_the_reference(self, encoder: ImageEncoder, reference: Reference | None) -> None:
        if reference is None:
            pytest.skip("no reference given")
        assert np.abs(_images(encoder, pictures()) - reference.images(pictures())).max() < self.reference_tolerance


class EncoderKit(ImageEncoderKit):
    """As `ImageEncoderKit`, for an encoder that takes texts too."""

    def test_texts_give_one_float32_row_each(self, encoder: ImageTextEncoder) -> None:
        found = _texts(encoder, TEXTS)
        assert found.dtype == np.float32
        assert found.shape == (len(TEXTS), encoder.dim)
        assert np.isfinite(found).all()

    def test_no_texts_give_no_rows(self, encoder: ImageTextEncoder) -> None:
        found = encoder.encode_texts([])
        assert (found.shape, found.dtype) == ((0, encoder.dim), np.float32)

    def test_a_text_is_the_same_alone_and_in_any_batch(self, encoder: ImageTextEncoder) -> None:
        texts = [*TEXTS, "the cat " * 3 * encoder.context_length]
        alone = np.concatenate([_texts(encoder, [text]) for text in texts])
        _assert_independent(lambda chosen: _texts(encoder, chosen), texts, alone, self.tolerance)

    def test_a_text_gives_the_same_vector_again(self, encoder: ImageTextEncoder) -> None:
        assert np.array_equal(_texts(encoder, TEXTS), _texts(encoder, TEXTS))

    def test_different_texts_get_different_vectors(self, encoder: ImageTextEncoder) -> None:
        _assert_distinct(_texts(encoder, ["a red cube", "a blue cube", "two cats", "x"]), 10 * self.tolerance)

    def test_text_vectors_keep_their_length(self, encoder: ImageTextEncoder) -> None:
        _assert_not_normalised(encoder, _texts(encoder, TEXTS))

    def test_a_text_that_is_cut_says_so(self, encoder: ImageTextEncoder) -> None:
        """What was not reported as cut must have been read to its last word, or the vector would differ in silence."""
        assert not encoder.prepare_text("a cat").truncated, "a short text is reported as cut"
        length = encoder.context_length
        for words in sorted({1, 2, length // 2, length, 2 * length, 8 * length}):
            first, second = (encoder.prepare_text("the " * words + end) for end in ("red", "cat"))
            assert first.truncated == (first.tokens > length), f"{first.tokens} tokens, {length} fit"
            if not first.truncated and not second.truncated:
                gap = np.abs(np.subtract(*encoder.encode_texts([first, second]))).max()
                assert gap > self.tolerance, f"the end of a text of {words + 1} words is not read, nor reported as cut"
            else:
                assert encoder.encode_texts([first]).shape == (1, encoder.dim)
        assert first.truncated, f"a text of {words + 1} words is not reported as cut"

    def test_an_empty_text_is_a_vector_or_refused(self, encoder: ImageTextEncoder) -> None:
        try:
            found = _texts(encoder, [""])
        except InvalidInput:
            return
        assert np.isfinite(found).all()

    def test_bad_texts_are_refused_and_their_neighbours_go_on(self, encoder: ImageTextEncoder) -> None:
        before = _texts(encoder, TEXTS[:2])
        assert_refused(encoder.prepare_text, BAD_TEXT)
        assert np.array_equal(_texts(encoder, TEXTS[:2]), before)

    def test_texts_are_prepared_by_many_threads(self, encoder: ImageTextEncoder) -> None:
        texts = [*TEXTS, "the cat " * 3 * encoder.context_length]
        expected = np.concatenate([_texts(encoder, [text]) for text in texts])
        prepared = in_threads(encoder.prepare_text, texts)
        for index, text in enumerate(prepared):
            gap = np.abs(encoder.encode_texts([text]) - expected[index % len(texts)]).max()
            assert gap <= self.tolerance, "threads disturb each other"

    def test_text_batches_made_ahead_give_the_same_vectors(self, encoder: ImageTextEncoder) -> None:
        prepared = [encoder.prepare_text(text) for text in TEXTS]
        _assert_made_ahead(encoder, encoder.collate_texts, prepared, encoder.encode_texts(prepared), self.tolerance)

    def test_texts_that_give_nan_are_refused_by_position(self, poisoned: ImageTextEncoder) -> None:
        with pytest.raises(NonFinite) as caught:
            _texts(poisoned, TEXTS[:3])
        assert caught.value.indices == (0, 1, 2)

    def test_the_passport_says_how_texts_are_read(self, encoder: ImageTextEncoder) -> None:
        passport = encoder.passport
        assert passport.tokenizer, "the passport says nothing of the tokenizer"
        assert passport.text_padding, "the passport says nothing of the padding"
        assert passport.context_length == encoder.context_length > 0

    def test_texts_agree_with_the_reference(self, encoder: ImageTextEncoder, reference: Reference | None) -> None:
        if reference is None:
            pytest.skip("no reference given")
        texts = [*TEXTS, "the cat " * 3 * encoder.context_length]
        assert np.abs(_texts(encoder, texts) - reference.texts(texts)).max() < self.reference_tolerance


def encoder_sized(encoder: ImageEncoder) -> np.ndarray:
    """An image that is already of the size that the encoder wants: nothing to resize, and still to be copied."""
    shape = np.asarray(encoder.prepare_image(pictures()[0])).shape
    return np.full(shape, 9, np.uint8)


def _assert_made_ahead(
    encoder: ImageEncoder, collate: Callable[[Sequence[Any]], Any], prepared: Sequence[Any], expected: np.ndarray,
    tolerance: float,
) -> None:  # fmt: skip
    """Many batches are collated at once, and then go through the forward one by one."""
    for index, batch in enumerate(in_threads(lambda one: collate([one]), prepared)):
        gap = np.abs(encoder.forward(batch) - expected[index % len(prepared)]).max()
        assert gap <= tolerance, "batches that were made ahead disturb each other"


def _images(encoder: ImageEncoder, images: Sequence[np.ndarray]) -> np.ndarray:
    return encoder.encode_images([encoder.prepare_image(image) for image in images])


def _texts(encoder: ImageTextEncoder, texts: Sequence[str]) -> np.ndarray:
    return encoder.encode_texts([encoder.prepare_text(text) for text in texts])


def _assert_independent(
    encode: Callable[[list[Any]], np.ndarray], inputs: Sequence[Any], alone: np.ndarray, tolerance: float
) -> None:
    """In order, backwards, and repeated among others."""
    indices = np.arange(len(inputs))
    for order in (indices, indices[::-1], np.random.default_rng(1).permutation(np.tile(indices, 3))):
        gap = np.abs(encode([inputs[index] for index in order]) - alone[order]).max()
        assert gap <= tolerance, f"a vector differs by {gap:.2g} from its own when encoded alone"


def _assert_distinct(vectors: np.ndarray, gap: float) -> None:
    for index, vector in enumerate(vectors[:-1]):
        nearest = np.abs(vectors[index + 1 :] - vector).max(axis=1).min()
        assert nearest > gap, f"input {index} and a later one share a vector"


def _assert_not_normalised(encoder: ImageEncoder, vectors: np.ndarray) -> None:
    assert encoder.passport.normalisation == "none"
    norms = np.linalg.norm(vectors, axis=1)
    assert norms.std() > 1e-4 * norms.mean(), "every vector has one length: give them as the model projects them"
