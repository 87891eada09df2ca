"""Every check of every kit fails on some broken model: a kit that lets all pass would prove nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import itertools
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.encoder import Encoder, load_encoder
from models.errors import NonFinite
from models.protocols import GREEDY, Caption, Decoding, PreparedPart
from models.scorer import DualEncoderScorer
from tests.kit.captioner import CaptionerKit
from tests.kit.encoder import EncoderKit
from tests.kit.inputs import BAD_TEXT
from tests.kit.scorer import ScorerKit
from tests.kit.tiny_captioner import TinyCaptioner
from tests.models.tiny_checkpoints import build_clip

CAUGHT = (AssertionError, pytest.fail.Exception)


class Changed:
    """An attribute of the sound model with some fields changed."""

    def __init__(self, name: str, **fields: Any) -> None:
        self._name, self._fields = name, fields

    def of(self, sound: Any) -> Any:
        return dataclasses.replace(getattr(sound, self._name), **self._fields)


class Broken:
    """A sound model with some of its attributes replaced; a function gets the sound model first."""

    def __init__(self, sound: Any, **instead: Any) -> None:
        self._sound = sound
        for name, value in instead.items():
            if isinstance(value, Changed):
                setattr(self, name, value.of(sound))
            else:
                setattr(self, name, partial(value, sound) if callable(value) else value)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sound, name)


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load_encoder(str(build_clip(tmp_path_factory.mktemp("kit") / "tiny")), device="cpu")


@pytest.fixture(scope="session")
def talker() -> TinyCaptioner:
    return TinyCaptioner()


class Garbling:
    """Prepares in a buffer that all threads share."""

    def __init__(self) -> None:
        self._buffer: Any = None
        self._meeting = threading.Barrier(2)

    def __call__(self, sound: Any, given: Any, *role: str) -> Any:
        self._buffer = given
        if threading.current_thread() is not threading.main_thread():
            with contextlib.suppress(threading.BrokenBarrierError):
                self._meeting.wait(5)  # two are always inside at once
        prepare = {"str": "prepare_text", "ndarray": "prepare_image"}[type(given).__name__]
        return sound.prepare(self._buffer, *role) if role else getattr(sound, prepare)(self._buffer)


class OneBuffer:
    """Collates into a buffer that all batches share."""

    def __init__(self, collate: str) -> None:
        self._collate, self._buffer = collate, None

    def methods(self) -> dict[str, Any]:
        return {self._collate: self._fill, "forward": self._forward}

    def _fill(self, sound: Any, given: Sequence[Any]) -> object:
        self._buffer = getattr(sound, self._collate)(given)
        return self

    def _forward(self, sound: Any, _: object) -> Any:
        return sound.forward(self._buffer)


def batch_mean(name: str) -> Callable[..., np.ndarray]:
    def encode(sound: Any, given: Sequence[Any]) -> np.ndarray:
        found: np.ndarray = getattr(sound, name)(given)
        return found + 0.01 * found.mean(axis=0) if len(given) else found

    return encode


def changed(name: str, change: Callable[[np.ndarray], Any]) -> Callable[..., Any]:
    return lambda sound, *given: change(getattr(sound, name)(*given))


def drifting(name: str) -> Callable[..., np.ndarray]:
    count = itertools.count(1)
    return lambda sound, *given: getattr(sound, name)(*given) * np.float32(1 + 1e-3 * next(count))


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def constant(found: np.ndarray) -> np.ndarray:
    return np.full_like(found, 0.5)


def never_cut(sound: Any, text: str) -> Any:
    return dataclasses.replace(sound.prepare_text(text), truncated=False)


def in_place(sound: Any, image: np.ndarray) -> np.ndarray:
    image[:] = 0
    return sound.prepare_image(image)


def view(sound: Any, image: np.ndarray) -> np.ndarray:
    prepared: np.ndarray = sound.prepare_image(image)
    return image if image.shape == prepared.shape else prepared


def no_rows_for_none(found: np.ndarray) -> np.ndarray:
    return found if len(found) else np.empty(0, np.float32)


def nan(found: np.ndarray) -> np.ndarray:
    return np.full_like(found, np.nan)


def surrogates_dropped(sound: Any, text: str) -> Any:
    return sound.prepare_text(text.encode(errors="ignore").decode())


def converted(sound: Any, image: np.ndarray) -> np.ndarray:
    return sound.prepare_image(np.zeros((8, 8, 3), np.uint8) if image.dtype != np.uint8 else image)


class OtherReference:
    def captions(self, images: Sequence[np.ndarray], max_tokens: int) -> list[str]:
        return [f"something of {max_tokens} tokens"] * len(images)

    def images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        return np.zeros((len(images), 24), np.float32)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.zeros((len(texts), 24), np.float32)


ENCODERS: dict[str, dict[str, Any]] = {
    "test_images_give_one_float32_row_each": {
        "encode_images": changed("encode_images", lambda v: v.astype(np.float64))
    },
    "test_no_images_give_no_rows": {"encode_images": changed("encode_images", no_rows_for_none)},
    "test_an_image_is_the_same_alone_and_in_any_batch": {"encode_images": batch_mean("encode_images")},
    "test_an_image_gives_the_same_vector_again": {"encode_images": drifting("encode_images")},
    "test_different_images_get_different_vectors": {"encode_images": changed("encode_images", constant)},
    "test_image_vectors_keep_their_length": {"encode_images": changed("encode_images", unit)},
    "test_extreme_images_get_vectors": {"encode_images": changed("encode_images", lambda v: v[:0])},
    "test_bad_images_are_refused_and_their_neighbours_go_on": {"prepare_image": converted},
    "test_images_are_prepared_by_many_threads": {"prepare_image": Garbling()},
    "test_image_batches_made_ahead_give_the_same_vectors": OneBuffer("collate_images").methods(),
    "test_an_image_decoded_to_the_size_asked_for_is_prepared_alike": {
        "decode_size": lambda _, *size: size if any(side % 8 for side in size) else tuple(side // 8 for side in size)
    },
    "test_preparing_leaves_the_image_alone": {"prepare_image": view},
    "test_images_that_give_nan_are_refused_by_position": {"encode_images": changed("encode_images", nan)},
    "test_the_passport_is_complete_and_survives_json": {"passport": Changed("passport", weights="")},
    "test_loading_again_gives_the_same_passport_and_vectors": {"passport": Changed("passport", dtype="float16")},
    "test_images_agree_with_the_reference": {},
    "test_texts_give_one_float32_row_each": {"encode_texts": changed("encode_texts", lambda v: v[:-1])},
    "test_no_texts_give_no_rows": {"encode_texts": changed("encode_texts", no_rows_for_none)},
    "test_a_text_is_the_same_alone_and_in_any_batch": {"encode_texts": batch_mean("encode_texts")},
    "test_a_text_gives_the_same_vector_again": {"encode_texts": drifting("encode_texts")},
    "test_different_texts_get_different_vectors": {"encode_texts": changed("encode_texts", constant)},
    "test_text_vectors_keep_their_length": {"encode_texts": changed("encode_texts", unit)},
    "test_a_text_that_is_cut_says_so": {"prepare_text": never_cut},
    "test_an_empty_text_is_a_vector_or_refused": {"encode_texts": changed("encode_texts", nan)},
    "test_bad_texts_are_refused_and_their_neighbours_go_on": {"prepare_text": surrogates_dropped},
    "test_texts_are_prepared_by_many_threads": {"prepare_text": Garbling()},
    "test_text_batches_made_ahead_give_the_same_vectors": OneBuffer("collate_texts").methods(),
    "test_texts_that_give_nan_are_refused_by_position": {"encode_texts": changed("encode_texts", nan)},
    "test_the_passport_says_how_texts_are_read": {"passport": Changed("passport", tokenizer="")},
    "test_texts_agree_with_the_reference": {},
}


def silently_cut(sound: Any, part: Any, role: str) -> PreparedPart:
    return dataclasses.replace(sound.prepare(part, role), truncated=False)


def takes_empty(sound: Any, part: Any, role: str) -> PreparedPart:
    empty = isinstance(part, str) and (not part or part == BAD_TEXT)
    return sound.prepare("x" if empty else part, role)


SCORERS: dict[str, dict[str, Any]] = {
    "test_each_candidate_gets_one_float32_in_0_1": {"score": changed("score", lambda v: 2 * v)},
    "test_no_candidates_get_no_scores": {"score": changed("score", lambda v: v if len(v) else np.empty((0, 1)))},
    "test_a_score_is_the_same_alone_and_among_others": {
        "score": changed("score", lambda v: v / v.max() if len(v) else v)
    },
    "test_a_score_is_the_same_again": {"score": drifting("score")},
    "test_candidates_and_queries_decide_the_score": {"score": changed("score", constant)},
    "test_what_fits_scores_higher": {"score": changed("score", lambda v: 1 - v)},
    "test_a_bad_candidate_gets_its_error_and_the_rest_its_scores": {"prepare": takes_empty},
    "test_a_modality_it_does_not_take_is_refused": {"takes": frozenset({("text", "image")})},
    "test_bad_queries_are_refused": {"prepare": takes_empty},
    "test_extreme_images_are_scored": {"score": changed("score", nan)},
    "test_a_text_that_is_cut_says_so": {"prepare": silently_cut},
    "test_parts_are_prepared_by_many_threads": {"prepare": Garbling()},
    "test_scores_of_nan_are_refused_by_position": {"score": changed("score", nan)},
    "test_the_identity_is_complete_and_survives_json": {"identity": Changed("identity", model="/home/me/model")},
}


def captions_changed(**fields: Callable[[Caption], Any]) -> Callable[..., list[Caption]]:
    def caption(sound: Any, *given: Any) -> list[Caption]:
        return [
            dataclasses.replace(one, **{name: change(one) for name, change in fields.items()})
            for one in sound.caption(*given)
        ]

    return caption


def never(_: Caption) -> bool:
    return False


def no_number(_: Caption) -> float:
    return float("nan")


def batch_named(sound: Any, pixels: Sequence[Any], *more: Any) -> list[Caption]:
    return [dataclasses.replace(one, text=f"{one.text} {len(pixels)}") for one in sound.caption(pixels, *more)]


def unseeded(sound: Any, pixels: Any, prompt: Any = None, decoding: Decoding = GREEDY) -> list[Caption]:
    return sound.caption(pixels, prompt, dataclasses.replace(decoding, seed=1))


def prompt_dropped(sound: Any, pixels: Any, prompt: Any = None, decoding: Decoding = GREEDY) -> list[Caption]:
    return sound.caption(pixels, None, decoding)


def counting() -> Callable[..., list[Caption]]:
    count = itertools.count()
    return lambda sound, *given: [dataclasses.replace(one, text=str(next(count))) for one in sound.caption(*given)]


CAPTIONERS: dict[str, dict[str, Any]] = {
    "test_each_image_gets_one_caption": {"caption": captions_changed(text=lambda one: f"[CLS] {one.text}")},
    "test_no_images_get_no_captions": {
        "caption": lambda sound, pixels, *more: sound.caption(pixels, *more) if len(pixels) else None
    },
    "test_a_caption_is_the_same_alone_and_in_any_batch": {"caption": batch_named},
    "test_a_caption_is_the_same_again": {"caption": counting()},
    "test_another_seed_samples_another_caption": {"caption": unseeded},
    "test_a_caption_depends_on_its_image": {
        "caption": lambda sound, pixels, *more: sound.caption([pixel * 0 for pixel in pixels], *more)
    },
    "test_scores_are_mean_log_probabilities": {"caption": captions_changed(score=lambda one: np.exp(one.score))},
    "test_a_likelier_choice_of_words_scores_higher": {"caption": captions_changed(score=lambda one: -one.tokens)},
    "test_a_caption_that_is_cut_says_so": {"caption": captions_changed(truncated=never)},
    "test_a_prompt_is_used_or_refused": {"caption": prompt_dropped},
    "test_extreme_images_get_captions": {"caption": captions_changed(score=no_number)},
    "test_bad_images_are_refused_and_their_neighbours_go_on": {"prepare_image": converted},
    "test_images_are_prepared_by_many_threads": {"prepare_image": Garbling()},
    "test_captions_of_nan_are_refused_by_position": {"caption": captions_changed(score=no_number)},
    "test_the_identity_is_complete_and_survives_json": {"identity": Changed("identity", dtype="")},
    "test_captions_agree_with_the_reference": {},
}


def checks_of(kit: type) -> list[str]:
    return [name for name, _ in inspect.getmembers(kit, inspect.isfunction) if name.startswith("test_")]


def run(kit: type, check: str, broken: Any, load: Callable[[], Any], **more: Any) -> None:
    """One check of a kit, called as pytest would with the broken model in place of its fixtures."""
    method = getattr(kit(), check)
    given = {"encoder": broken, "scorer": broken, "captioner": broken, "load": load, **more}
    method(**{name: given[name] for name in inspect.signature(method).parameters})


@pytest.mark.parametrize("check", checks_of(EncoderKit))
def test_each_check_of_encoders_catches_a_broken_one(check: str, sound: Encoder) -> None:
    broken = Broken(sound, **ENCODERS[check])
    poisoned = Broken(sound, **ENCODERS[check])
    with pytest.raises(CAUGHT):
        run(EncoderKit, check, broken, lambda: sound, poisoned=poisoned, reference=OtherReference())


@pytest.mark.parametrize(
    ("check", "instead"),
    [
        (
            "test_an_image_decoded_to_the_size_asked_for_is_prepared_alike",
            {"decode_size": lambda _, width, height: (width // 4, height // 4)},
        ),
        ("test_preparing_leaves_the_image_alone", {"prepare_image": in_place}),
        ("test_extreme_images_get_vectors", {"encode_images": changed("encode_images", nan)}),
        ("test_the_passport_is_complete_and_survives_json", {"dim": 7}),
        ("test_a_text_that_is_cut_says_so", {"context_length": 40}),
    ],
)
def test_a_check_catches_what_else_it_asks(check: str, instead: dict[str, Any], sound: Encoder) -> None:
    with pytest.raises(CAUGHT):
        run(EncoderKit, check, Broken(sound, **instead), lambda: sound)


@pytest.mark.parametrize("check", checks_of(CaptionerKit))
def test_each_check_of_captioners_catches_a_broken_one(check: str, talker: TinyCaptioner) -> None:
    broken = Broken(talker, **CAPTIONERS[check])
    with pytest.raises(CAUGHT):
        run(CaptionerKit, check, broken, lambda: talker, poisoned=broken, reference=OtherReference())


class TestTinyCaptioner(CaptionerKit):
    @pytest.fixture
    def load(self) -> Callable[[], TinyCaptioner]:
        return TinyCaptioner


@pytest.mark.parametrize("check", checks_of(ScorerKit))
def test_each_check_of_scorers_catches_a_broken_one(check: str, sound: Encoder) -> None:
    scorer = DualEncoderScorer(sound)
    broken = Broken(scorer, **SCORERS[check])
    silent = Broken(scorer, score=changed("score", nan))
    red, blue = (np.full((40, 40, 3), colour, np.uint8) for colour in ((250, 0, 0), (0, 0, 250)))
    with pytest.raises(CAUGHT):
        run(ScorerKit, check, broken, lambda: scorer, poisoned=silent, triples=[(red, red, blue)])


def test_a_sound_model_passes_where_the_broken_ones_fail(sound: Encoder) -> None:
    """The harness above, with nothing broken: it is not the harness that fails."""
    for check in checks_of(EncoderKit):
        if "nan" not in check and "reference" not in check:
            run(EncoderKit, check, Broken(sound), lambda: sound)
    scorer = DualEncoderScorer(sound)
    red, blue = (np.full((40, 40, 3), colour, np.uint8) for colour in ((250, 0, 0), (0, 0, 250)))
    for check in checks_of(ScorerKit):
        if "nan" not in check:
            run(ScorerKit, check, Broken(scorer), lambda: scorer, triples=[(red, red, blue)])


def test_one_candidate_of_nan_leaves_the_others_their_scores(tmp_path: Path) -> None:
    """`score_each` over a model whose forward gives NaN for one text only."""
    import torch

    from models.scorer import score_each

    encoder = load_encoder(str(build_clip(tmp_path / "tiny")), device="cpu")
    scorer = DualEncoderScorer(encoder)
    candidates = ["a red cube", "the cat", "x"]
    before = score_each(scorer, "a photo", candidates)
    (row,) = set(encoder.prepare_text("x").ids) - set(encoder.prepare_text("a photo the cat red cube").ids)
    with torch.no_grad():
        encoder._network.module.text_model.embeddings.token_embedding.weight[row] = float("nan")
    after = score_each(scorer, "a photo", candidates)
    assert np.abs(np.subtract(after[:2], before[:2])).max() < 1e-6
    assert isinstance(after[2], NonFinite)
    assert "scores at index 2" in str(after[2])
