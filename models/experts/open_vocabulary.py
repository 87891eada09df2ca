"""Things of any name: OWLv2 (Minderer et al. 2023, arXiv 2306.09683), which finds what it is asked for in words."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from models.checkpoint import open_checkpoint
from models.device import pick_device
from models.errors import BrokenCheckpoint, InvalidInput, ModelError, NonFinite
from models.experts.finding import Box, Finding, Found, distinct
from models.families.hub import load_config, load_module
from models.files import Checkpoint, read_json
from models.passport import library_versions
from models.pixels import PixelBatch
from models.preprocess import ImagePipeline, check_rgb
from models.protocols import Identity
from models.tokenizer import LoadedTokenizer, load_tokenizer

__all__ = ["KIND", "OpenVocabularyDetector", "load_open_vocabulary"]

KIND: Final = "owlv2"
TEMPLATE: Final = "a photo of a {}"
MOST_LABELS: Final = 200
_PROCESSOR: Final = "preprocessor_config.json"


class OpenVocabularyDetector:
    """One checkpoint on one device; looks at one image after the other. Conforms to `models.experts.finding.Expert`.

    Boxes that overlap a surer one of the same label by more than half are left out: each patch of the image proposes
    its own.
    """

    name = "detector"
    trusted = 0.2

    def __init__(
        self,
        checkpoint: Checkpoint,
        network: Any,
        tokenizer: LoadedTokenizer,
        pipeline: ImagePipeline,
        device: torch.device,
        labels: Sequence[str] = (),
        least: float = 0.1,
    ) -> None:
        self.device = str(device)
        self._network, self._tokenizer, self._target = network, tokenizer, device
        self._pipeline, self._pixels = pipeline, PixelBatch(pipeline, device, torch.float32)
        self._context = int(network.config.text_config.max_position_embeddings)
        self._labels, self._least = tuple(labels), least
        self._lock = threading.Lock()
        self.identity = Identity(
            model=checkpoint.model,
            revision=checkpoint.revision,
            kind=KIND,
            weights=checkpoint.weights_digest(),
            tokenizer=tokenizer.digest(tokenizer.encode),
            preprocessing=pipeline.digest,
            dtype="float32",
            source=checkpoint.source,
            libraries=library_versions(),
        )

    def find(self, images: Sequence[np.ndarray]) -> list[Found]:
        """The things of the labels that it was made with."""
        return self.find_labels(images, self._labels)

    def find_labels(self, images: Sequence[np.ndarray], labels: Sequence[str]) -> list[Found]:
        """The things in each image that have one of these names, surest first.

        Raises:
            InvalidInput: no label, too many, or one that cannot be read.
        """
        asked = self._texts(labels)
        found: list[Found] = []
        for image in images:
            try:
                found.append(self._one(image, list(labels), asked))
            except ModelError as error:
                found.append(error)
        return found

    def _texts(self, labels: Sequence[str]) -> dict[str, torch.Tensor]:
        if not 0 < len(labels) <= MOST_LABELS:
            raise InvalidInput(f"a detector is asked for 1 to {MOST_LABELS} things, got {len(labels)}; name them")
        try:
            told = self._tokenizer.own(
                [TEMPLATE.format(label) for label in labels],
                padding="max_length", max_length=self._context, truncation=True, return_tensors="pt",
            )  # fmt: skip
        except (UnicodeEncodeError, TypeError) as error:
            raise InvalidInput("the name of a thing to find is no valid Unicode; correct it") from error
        return {name: told[name].to(self._target) for name in ("input_ids", "attention_mask")}

    @torch.inference_mode()
    def _one(self, image: np.ndarray, labels: list[str], asked: dict[str, torch.Tensor]) -> Found:
        check_rgb(image)
        square = _square(image)
        prepared = self._pipeline.apply(square)
        with self._lock:
            out = self._network(**asked, pixel_values=self._pixels([prepared])["pixel_values"])
        logits, boxes = out.logits[0].float().cpu().numpy(), out.pred_boxes[0].float().cpu().numpy()
        if not (np.isfinite(logits).all() and np.isfinite(boxes).all()):
            raise NonFinite([0], "detections", self.identity.dtype)
        best = logits.argmax(-1)
        scores = 1 / (1 + np.exp(-logits.max(-1)))
        found = []
        for place in np.flatnonzero(scores > self._least):
            box = _box(boxes[place], image)
            if box is not None:
                found.append(Finding(self.name, "thing", labels[best[place]], float(scores[place]), box))
        return distinct(found)


def load_open_vocabulary(
    model: str, revision: str | None = None, device: str = "auto", labels: Sequence[str] = (), least: float = 0.1
) -> OpenVocabularyDetector:
    """Load an OWLv2 checkpoint.

    Args:
        model: a hub id such as "google/owlv2-base-patch16-ensemble", or a folder.
        revision: branch, tag or commit of a hub repository.
        device: "auto", "cpu", "cuda" or "cuda:1".
        labels: what to look for.
        least: score under which a thing is left out.

    Raises:
        ModelError: one of the tree in `models.errors`, with what to do about it.
    """
    target = pick_device(device)
    checkpoint = open_checkpoint(model, revision, kinds=(KIND,))
    config = load_config(checkpoint)
    network = load_module(checkpoint, "Owlv2ForObjectDetection", target, torch.float32)
    tokenizer = load_tokenizer(checkpoint)
    if tokenizer.own.pad_token_id is None:
        raise BrokenCheckpoint(f"the tokenizer of {checkpoint.model} has no padding token; fetch it again")
    return OpenVocabularyDetector(checkpoint, network, tokenizer, _pipeline(checkpoint, config), target, labels, least)


def _pipeline(checkpoint: Checkpoint, config: Any) -> ImagePipeline:
    """A square image to the network's, by Pillow's bilinear filter with antialiasing.

    transformers blurs and interpolates with scipy instead; the pixels agree closely (tests/models/experts).
    """
    told = read_json(checkpoint.folder / _PROCESSOR, checkpoint.model) if _has(checkpoint) else {}
    mean = told.get("image_mean") or [0.48145466, 0.4578275, 0.40821073]
    std = told.get("image_std") or [0.26862954, 0.26130258, 0.27577711]
    side = int(config.vision_config.image_size)
    return ImagePipeline(
        edge=None,
        exact=(side, side),
        crop=None,
        resample=Image.Resampling.BILINEAR.value,
        scale=float(told.get("rescale_factor", 1 / 255)),
        mean=(float(mean[0]), float(mean[1]), float(mean[2])),
        std=(float(std[0]), float(std[1]), float(std[2])),
    )


def _has(checkpoint: Checkpoint) -> bool:
    return (checkpoint.folder / _PROCESSOR).is_file()


def _square(image: np.ndarray) -> np.ndarray:
    """The image in the upper left of a black square."""
    height, width = image.shape[:2]
    side = max(height, width)
    if height == width:
        return image
    if side > 8192:  # a strip: the square would be gigabytes
        share = 8192 / side
        size = max(1, round(width * share)), max(1, round(height * share))
        return _square(np.array(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)))
    out = np.zeros((side, side, 3), np.uint8)
    out[:height, :width] = image
    return out


def _box(box: np.ndarray, image: np.ndarray) -> Box | None:
    """(centre x, y, width, height) of a square as shares of the image in it; None for what lies outside."""
    height, width = image.shape[:2]
    longest = max(height, width)
    x, y, w, h = (float(one) for one in box)
    left, right = (max(0.0, min(1.0, (x + sign * w / 2) * longest / width)) for sign in (-1, 1))
    top, bottom = (max(0.0, min(1.0, (y + sign * h / 2) * longest / height)) for sign in (-1, 1))
    return (left, top, right, bottom) if left < right and top < bottom else None
