from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, BlipForConditionalGeneration, BlipImageProcessorPil

from models.captioner import BlipCaptioner, load_captioner
from models.errors import BrokenCheckpoint, InvalidInput, UnsupportedModel
from models.protocols import Decoding
from tests.kit.captioner import CaptionerKit


class OwnReference:
    """transformers' own processor, model and generation on a checkpoint."""

    def __init__(self, folder: Path) -> None:
        self._network = BlipForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._processor = BlipImageProcessorPil.from_pretrained(folder)

    def captions(self, images: Sequence[np.ndarray], max_tokens: int) -> list[str]:
        pixels = self._processor(images=[Image.fromarray(image) for image in images], return_tensors="pt")
        ids = self._network.generate(pixels["pixel_values"], max_new_tokens=max_tokens)
        return [" ".join(text.split()) for text in self._tokenizer.batch_decode(ids, skip_special_tokens=True)]


class TestBlip(CaptionerKit):
    @pytest.fixture
    def load(self, blip: Path) -> Callable[[], BlipCaptioner]:
        return lambda: load_captioner(str(blip), device="cpu")

    @pytest.fixture
    def reference(self, blip: Path) -> OwnReference:
        return OwnReference(blip)


@pytest.fixture(scope="module")
def captioner(blip: Path) -> BlipCaptioner:
    return load_captioner(str(blip), device="cpu")


@pytest.fixture(scope="module")
def prepared(captioner: BlipCaptioner, pictures: list[np.ndarray]) -> list[np.ndarray]:
    return [captioner.prepare_image(picture) for picture in pictures]


def test_a_known_prompt_leads_the_caption_and_is_not_repeated(
    captioner: BlipCaptioner, prepared: list[np.ndarray]
) -> None:
    prompted = captioner.caption(prepared, "three red circles")
    assert prompted != captioner.caption(prepared)
    # What follows the prompt is scored, so a caption of one token has the probability of that token alone.
    (one,) = captioner.caption(prepared[:1], "three red circles", Decoding(max_tokens=1))
    assert one.tokens == 1


def test_a_word_that_the_model_does_not_know_is_refused(captioner: BlipCaptioner, prepared: list[np.ndarray]) -> None:
    with pytest.raises(InvalidInput, match="zebra"):
        captioner.caption(prepared[:1], "a zebra")


def test_a_caption_ends_where_the_model_takes_no_more(captioner: BlipCaptioner, prepared: list[np.ndarray]) -> None:
    """Prompt and caption share the context; a caption that it cuts is reported as cut."""
    prompt = " ".join(["red"] * (captioner.context_length - 4))
    found = captioner.caption(prepared, prompt, Decoding(max_tokens=50))
    assert all(caption.tokens <= 3 for caption in found)
    assert any(caption.truncated for caption in found)


def test_sampling_follows_the_probabilities(captioner: BlipCaptioner, prepared: list[np.ndarray]) -> None:
    """First words drawn with many seeds come about as often as the model says."""
    drawn = [
        captioner.caption(prepared[:1], None, Decoding(max_tokens=1, temperature=1.0, seed=seed))[0]
        for seed in range(150)
    ]
    for text in {caption.text for caption in drawn}:
        same = [caption for caption in drawn if caption.text == text]
        odds = float(np.exp(same[0].score))
        spread = (odds * (1 - odds) / len(drawn)) ** 0.5
        assert abs(len(same) / len(drawn) - odds) < 4 * spread + 0.01, text


def test_nothing_but_the_likeliest_is_drawn_from_a_small_set(
    captioner: BlipCaptioner, prepared: list[np.ndarray]
) -> None:
    narrow = Decoding(max_tokens=6, temperature=1.0, top_p=1e-9, seed=4)
    assert captioner.caption(prepared, None, narrow) == captioner.caption(prepared, None, Decoding(max_tokens=6))


def test_other_kinds_of_models_are_refused(clip: Path) -> None:
    with pytest.raises(UnsupportedModel, match="'clip'"):
        load_captioner(str(clip))


def test_a_matcher_alone_is_no_captioner(blip: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copied = shutil.copytree(blip, tmp_path / "matcher")
    kept = {name: value for name, value in load_file(copied / "model.safetensors").items() if "decoder" not in name}
    save_file(kept, copied / "model.safetensors")
    with pytest.raises(BrokenCheckpoint, match="text_decoder"):
        load_captioner(str(copied))


def test_an_end_token_outside_the_table_is_refused(blip: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(blip, tmp_path / "endless")
    config = json.loads((copied / "config.json").read_text())
    config["text_config"]["sep_token_id"] = 99999
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(BrokenCheckpoint, match="sep_token_id"):
        load_captioner(str(copied))


def test_drawn_captions_are_those_of_their_seeds(captioner: BlipCaptioner, prepared: list[np.ndarray]) -> None:
    decoding = Decoding(temperature=1.0, seed=5, max_tokens=12)
    drawn = captioner.draw(prepared, 3, None, decoding)
    for n in range(3):
        alone = captioner.caption(prepared, None, Decoding(temperature=1.0, seed=5 + n, max_tokens=12))
        assert [each[n].text for each in drawn] == [one.text for one in alone]


def test_the_likelihood_of_a_caption_is_its_score(captioner: BlipCaptioner, prepared: list[np.ndarray]) -> None:
    captions = [c for c in zip(prepared, captioner.caption(prepared), strict=True) if not c[1].truncated]
    scores = captioner.likelihood([image for image, _ in captions], [caption.text for _, caption in captions])
    assert scores == pytest.approx([caption.score for _, caption in captions], abs=1e-3)


def test_guidance_of_one_is_plain_and_more_needs_one_beam(captioner: BlipCaptioner, prepared: list[np.ndarray]) -> None:
    assert captioner.caption(prepared, None, Decoding(guidance=1.0)) == captioner.caption(prepared)
    both = captioner.caption(prepared, None, Decoding(guidance=4.0, max_tokens=12))
    alone = [captioner.caption([image], None, Decoding(guidance=4.0, max_tokens=12))[0] for image in prepared]
    assert [one.text for one in both] == [one.text for one in alone]
    for wrong in ({"guidance": 0.5}, {"guidance": float("nan")}, {"guidance": 2.0, "beams": 2}):
        with pytest.raises(ValueError, match="guidance"):
            Decoding(**wrong)  # type: ignore[arg-type]


def test_guided_words_are_chosen_as_the_paper_says(
    blip: Path, captioner: BlipCaptioner, prepared: list[np.ndarray], pictures: list[np.ndarray]
) -> None:
    network = BlipForConditionalGeneration.from_pretrained(blip, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(blip)
    pixels = BlipImageProcessorPil.from_pretrained(blip)(
        images=[Image.fromarray(picture) for picture in pictures], return_tensors="pt"
    )["pixel_values"]
    with torch.inference_mode():
        images = network.vision_model(pixels).last_hidden_state
        start = torch.full((len(pictures), 1), network.config.text_config.bos_token_id)
        own, none = (
            network.text_decoder(input_ids=start, encoder_hidden_states=each).logits[:, -1].log_softmax(-1)
            for each in (images, torch.zeros_like(images))
        )
    chosen = (none + 3.0 * (own - none)).argmax(-1)
    found = captioner.caption(prepared, None, Decoding(guidance=3.0, max_tokens=1))
    assert [one.text for one in found] == [
        tokenizer.decode([token], skip_special_tokens=True).strip() for token in chosen
    ]
    assert [one.score for one in found] == pytest.approx(own.gather(-1, chosen[:, None])[:, 0].tolist(), abs=1e-3)
