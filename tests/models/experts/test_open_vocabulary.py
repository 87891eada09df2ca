"""OWLv2 on a tiny random checkpoint, beside transformers' own processor and post-processing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPTokenizer, Owlv2Config, Owlv2ForObjectDetection
from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil

from models.errors import InvalidInput, NonFinite, UnsupportedModel
from models.experts.finding import distinct
from models.experts.open_vocabulary import TEMPLATE, OpenVocabularyDetector, _square, load_open_vocabulary
from tests.models.tiny_checkpoints import CONTEXT, TOWER, random_model, tiny_vocabulary

SIDE = 64
LABELS = ["red cube", "green sphere", "cat"]


@pytest.fixture(scope="module")
def owl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("owl") / "tiny-owl"
    vocabulary, merges = dict(tiny_vocabulary()[0]), list(tiny_vocabulary()[1])
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CONTEXT)
    text = {
        **TOWER, "vocab_size": len(vocabulary), "max_position_embeddings": CONTEXT, "pad_token_id": 0,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    config = Owlv2Config(
        text_config=text, vision_config={**TOWER, "image_size": SIDE, "patch_size": 16}, projection_dim=32
    )
    random_model(Owlv2ForObjectDetection, config, 5).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Owlv2ImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def detector(owl: Path) -> OpenVocabularyDetector:
    return load_open_vocabulary(str(owl), device="cpu", labels=LABELS, least=0.0)


def photo(height: int, width: int) -> np.ndarray:
    """Smooth, as photographs are."""
    rng = np.random.default_rng(height)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return np.array(small.resize((width, height), Image.Resampling.BICUBIC))


SHAPES = [(64, 64), (150, 150), (120, 80), (50, 170)]


def pixels_of(detector: OpenVocabularyDetector, image: np.ndarray) -> torch.Tensor:
    return detector._pixels([detector._pipeline.apply(_square(image))])["pixel_values"]


@pytest.mark.parametrize("shape", SHAPES)
def test_pixels_are_nearly_those_of_transformers(
    owl: Path, detector: OpenVocabularyDetector, shape: tuple[int, int]
) -> None:
    """Theirs are blurred and interpolated by scipy, ours by Pillow."""
    image = photo(*shape)
    theirs = Owlv2ImageProcessorPil.from_pretrained(owl)(images=[image], return_tensors="pt")["pixel_values"]
    apart = (pixels_of(detector, image) - theirs).abs()
    assert float(apart.mean()) < 0.05 * float(theirs.std())


@pytest.mark.parametrize("shape", SHAPES)
def test_things_are_those_of_transformers(owl: Path, detector: OpenVocabularyDetector, shape: tuple[int, int]) -> None:
    image = photo(*shape)
    network = Owlv2ForObjectDetection.from_pretrained(owl).eval()
    tokens = CLIPTokenizer.from_pretrained(owl)(
        [TEMPLATE.format(label) for label in LABELS],
        padding="max_length", max_length=CONTEXT, truncation=True, return_tensors="pt",
    )  # fmt: skip
    with torch.inference_mode():
        out = network(**tokens, pixel_values=pixels_of(detector, image))
    processor = Owlv2ImageProcessorPil.from_pretrained(owl)
    (theirs,) = processor.post_process_object_detection(out, threshold=0.0, target_sizes=[shape])
    size = np.array([shape[1], shape[0]] * 2)
    boxes = (theirs["boxes"].numpy() / size).clip(0, 1)
    scores, labels = theirs["scores"].numpy(), [LABELS[int(label)] for label in theirs["labels"]]
    (ours,) = detector.find([image])
    assert isinstance(ours, list)
    assert ours
    for one in ours:
        far = np.abs(boxes - one.box).max(axis=1) + np.abs(scores - one.score)
        same = [distance for distance, label in zip(far, labels, strict=True) if label == one.label]
        assert min(same, default=9.0) < 1e-4, one
    assert ours[0].score == pytest.approx(
        float(scores[(boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])].max()), abs=1e-5
    )
    assert distinct(ours) == ours


def test_what_it_finds_depends_on_what_it_is_asked(detector: OpenVocabularyDetector) -> None:
    image = photo(64, 64)
    (cats,) = detector.find_labels([image], ["cat"])
    assert isinstance(cats, list)
    assert {one.label for one in cats} == {"cat"}
    for labels in ([], ["x"] * 201, ["broken \udcff"]):
        with pytest.raises(InvalidInput):
            detector.find_labels([image], labels)


def test_a_bad_image_leaves_its_neighbours_their_things(detector: OpenVocabularyDetector) -> None:
    image = photo(64, 64)
    first, bad, strip, last = detector.find([image, image[..., 0], np.zeros((1, 20_000, 3), np.uint8), image])
    assert isinstance(bad, InvalidInput)
    assert isinstance(strip, list)
    assert first == last


def test_nan_is_an_error_of_its_image(owl: Path) -> None:
    poisoned = load_open_vocabulary(str(owl), device="cpu", labels=LABELS)
    with torch.no_grad():
        for weight in poisoned._network.box_head.parameters():
            weight.fill_(float("nan"))
    (found,) = poisoned.find([photo(64, 64)])
    assert isinstance(found, NonFinite)


def test_other_kinds_of_models_are_refused(clip: Path) -> None:
    with pytest.raises(UnsupportedModel, match="owlv2"):
        load_open_vocabulary(str(clip))
