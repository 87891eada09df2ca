"""The kit of captioners."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import pytest

from models.errors import InvalidInput, NonFinite
from models.protocols import Caption, Captioner, Decoding
from tests.kit.inputs import (
    BAD_TEXT,
    assert_json,
    assert_public_name,
    assert_refused,
    bad_pictures,
    extreme_pictures,
    in_threads,
    loaded_once,
    pictures,
    poison,
)

GREEDY = Decoding(max_tokens=12)
BEAMS = Decoding(max_tokens=12, beams=2)
SAMPLED = Decoding(max_tokens=12, temperature=1.0, top_p=0.95, seed=7)
PROMPT = "a picture of"
PICTURES = pictures()[2:]


class Reference(Protocol):
    """What the model's own library says, greedily."""

    def captions(self, images: Sequence[np.ndarray], max_tokens: int) -> list[str]:
        """uint8 RGB images of any size to their captions."""


class CaptionerKit:
    """Inherit, and define a fixture `load`: a function without arguments that loads the captioner.

    Attributes:
        tolerance: most that a score may change with its batch.
        decodings: the ways of decoding that it offers; the first is greedy.
    """

    tolerance = 1e-4
    decodings: tuple[Decoding, ...] = (GREEDY, BEAMS, SAMPLED)

    @pytest.fixture
    def captioner(self, load: Callable[[], Any]) -> Any:
        return loaded_once(type(self), load)

    @pytest.fixture
    def poisoned(self, load: Callable[[], Any]) -> Any:
        """The captioner with weights of NaN; override it where they are not torch's."""
        return poison(load())

    @pytest.fixture
    def reference(self) -> Reference | None:
        """The model's own library, if it can be asked."""
        return None

    def test_each_image_gets_one_caption(self, captioner: Captioner) -> None:
        for decoding in self.decodings:
            found = _captions(captioner, PICTURES, None, decoding)
            assert len(found) == len(PICTURES)
            for caption in found:
                assert isinstance(caption, Caption)
                assert caption.text == " ".join(caption.text.split()), f"{caption.text!r} holds stray white space"
                assert not {"[SEP]", "[PAD]", "[CLS]", "[UNK]", "</s>", "<pad>", "<unk>"} & set(caption.text.split())
                assert caption.text.isprintable(), f"{caption.text!r} holds control characters"

    def test_no_images_get_no_captions(self, captioner: Captioner) -> None:
        assert captioner.caption([]) == []

    def test_a_caption_is_the_same_alone_and_in_any_batch(self, captioner: Captioner) -> None:
        for decoding in self.decodings:
            alone = [_captions(captioner, [picture], None, decoding)[0] for picture in PICTURES]
            self._assert_independent(captioner, alone, None, decoding)

    def test_a_caption_is_the_same_again(self, captioner: Captioner) -> None:
        for decoding in self.decodings:
            first, again = (_captions(captioner, PICTURES, None, decoding) for _ in range(2))
            assert first == again, f"{decoding} gives another caption the second time"

    def test_another_seed_samples_another_caption(self, captioner: Captioner) -> None:
        for decoding in self.decodings:
            if decoding.temperature:
                seeds = [_captions(captioner, PICTURES, None, replace(decoding, seed=seed)) for seed in range(6)]
                assert any(found != seeds[0] for found in seeds[1:]), "six seeds sample the same captions"

    def test_a_caption_depends_on_its_image(self, captioner: Captioner) -> None:
        found = _captions(captioner, PICTURES, None, self.decodings[0])
        assert len({round(caption.score, 5) for caption in found}) > 1, "all images score the same caption alike"

    def test_scores_are_mean_log_probabilities(self, captioner: Captioner) -> None:
        for decoding in self.decodings:
            for caption in _captions(captioner, PICTURES, None, decoding):
                assert math.isfinite(caption.score), f"{caption} has no score"
                assert -50 < caption.score <= 0, f"{caption.score} is no mean log-probability"

    def test_a_likelier_choice_of_words_scores_higher(self, captioner: Captioner) -> None:
        """Sampling at a high temperature must cost probability: a score of something else would not show it."""
        for decoding in self.decodings:
            if decoding.temperature:
                wild = replace(decoding, temperature=20.0, top_p=1.0)
                greedy = _captions(captioner, PICTURES, None, self.decodings[0])
                sampled = _captions(captioner, PICTURES, None, wild)
                means = [float(np.mean([caption.score for caption in found])) for found in (greedy, sampled)]
                assert means[0] > means[1], f"greedy {means[0]:.3f}, sampled at temperature 20 {means[1]:.3f}"

    def test_a_caption_that_is_cut_says_so(self, captioner: Captioner) -> None:
        decoding = self.decodings[0]
        for picture, whole in zip(PICTURES, _captions(captioner, PICTURES, None, decoding), strict=True):
            assert 1 <= whole.tokens <= decoding.max_tokens, f"{whole.tokens} tokens, {decoding.max_tokens} allowed"
            if whole.truncated:
                assert whole.tokens == decoding.max_tokens, f"{whole} was not cut at {decoding.max_tokens} tokens"
                continue
            (exact,) = _captions(captioner, [picture], None, replace(decoding, max_tokens=whole.tokens))
            assert (exact.text, exact.truncated) == (whole.text, False), "a caption that just fits is cut"
            if whole.tokens > 1:
                (cut,) = _captions(captioner, [picture], None, replace(decoding, max_tokens=whole.tokens - 1))
                assert (cut.tokens, cut.truncated) == (whole.tokens - 1, True), f"{cut} is not reported as cut"
        (shortest,) = _captions(captioner, PICTURES[:1], None, replace(decoding, max_tokens=1))
        assert shortest.tokens == 1, f"max_tokens 1 gave {shortest.tokens} tokens"

    def test_a_prompt_is_used_or_refused(self, captioner: Captioner) -> None:
        """Its captions are independent of their batch too, do not repeat it, and one too long is blamed."""
        try:
            alone = [_captions(captioner, [picture], PROMPT, self.decodings[0])[0] for picture in PICTURES]
        except InvalidInput:
            for refused in (PROMPT, "what is this?"):
                assert_refused(lambda prompt: _captions(captioner, PICTURES[:1], prompt, GREEDY), refused)
            return
        self._assert_independent(captioner, alone, PROMPT, self.decodings[0])
        assert not any(caption.text.startswith(PROMPT) for caption in alone), "the caption repeats the prompt"
        plain = _captions(captioner, PICTURES, None, self.decodings[0])
        assert alone != plain, "the prompt changes nothing"
        for bad in ("the " * 20_000, BAD_TEXT):
            assert_refused(lambda prompt: _captions(captioner, PICTURES[:1], prompt, GREEDY), bad)

    def test_extreme_images_get_captions(self, captioner: Captioner) -> None:
        for picture in extreme_pictures():
            (found,) = _captions(captioner, [picture], None, self.decodings[0])
            assert math.isfinite(found.score)

    def test_bad_images_are_refused_and_their_neighbours_go_on(self, captioner: Captioner) -> None:
        before = _captions(captioner, PICTURES[:2], None, self.decodings[0])
        for bad in bad_pictures():
            assert_refused(captioner.prepare_image, bad)
        assert _captions(captioner, PICTURES[:2], None, self.decodings[0]) == before

    def test_images_are_prepared_by_many_threads(self, captioner: Captioner) -> None:
        expected = [captioner.prepare_image(picture) for picture in PICTURES]
        for index, prepared in enumerate(in_threads(captioner.prepare_image, PICTURES)):
            assert np.array_equal(prepared, expected[index % len(expected)]), "threads disturb each other"

    def test_captions_of_nan_are_refused_by_position(self, poisoned: Captioner) -> None:
        with pytest.raises(NonFinite) as caught:
            _captions(poisoned, PICTURES[:3], None, self.decodings[0])
        assert caught.value.indices == (0, 1, 2)

    def test_the_identity_is_complete_and_survives_json(self, captioner: Captioner, load: Callable[[], Any]) -> None:
        assert_json(captioner.identity.to_dict())
        assert_public_name(captioner.identity.model)
        assert captioner.identity.kind, "the identity does not say what kind of model this is"
        assert captioner.identity.dtype, "the identity does not name the number format"
        assert load().identity == captioner.identity, "loading it again gives another identity"

    def test_captions_agree_with_the_reference(self, captioner: Captioner, reference: Reference | None) -> None:
        if reference is None:
            pytest.skip("no reference given")
        found = [caption.text for caption in _captions(captioner, PICTURES, None, self.decodings[0])]
        assert found == reference.captions(PICTURES, self.decodings[0].max_tokens)

    def _assert_independent(
        self, captioner: Captioner, alone: Sequence[Caption], prompt: str | None, decoding: Decoding
    ) -> None:
        """In order, backwards, and repeated among others."""
        shown = PICTURES
        indices = np.arange(len(shown))
        for order in (indices, indices[::-1], np.random.default_rng(1).permutation(np.tile(indices, 2))):
            together = _captions(captioner, [shown[index] for index in order], prompt, decoding)
            for index, caption in zip(order, together, strict=True):
                own = alone[index]
                assert (caption.text, caption.tokens, caption.truncated) == (own.text, own.tokens, own.truncated), (
                    f"{caption} among others, {own} alone"
                )
                assert abs(caption.score - own.score) <= self.tolerance, f"{caption} among others, {own} alone"


def _captions(
    captioner: Captioner, images: Sequence[np.ndarray], prompt: str | None, decoding: Decoding
) -> list[Caption]:
    return captioner.caption([captioner.prepare_image(image) for image in images], prompt, decoding)
