"""The encoder: images and texts to vectors of one space."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from models.batch import Batch, Loader
from models.checkpoint import bundled_model
from models.device import DTYPES, pick_device, pick_dtype
from models.errors import BrokenCheckpoint, NonFiniteVectors, NoTextTower
from models.families import Network
from models.files import state_of
from models.passport import Passport
from models.pipeline import Pipeline, open_pipeline
from models.pixels import PixelBatch
from models.text import PreparedText

__all__ = ["Encoder", "PreparedText", "bundled_model", "load_encoder"]


class Encoder:
    """One model on one device.

    `prepare_*` and `collate_*` may be called by many threads at once; `forward` and `encode_*` by one at a time. A
    vector depends on its own input alone: in float32 it is the same in any batch to 1e-5.

    Attributes:
        passport: identity of the space.
        dim: length of the vectors.
        modalities: what it encodes, ("image", "text") or ("image",).
        device: where the forward runs, "cpu" or "cuda:0".
        image_size: height and width of prepared images; None where they keep their aspect.
        context_length: tokens of the longest text that is not cut; 0 without a text tower.
    """

    def __init__(self, pipeline: Pipeline, network: Network, passport: Passport, device: torch.device) -> None:
        self.passport = passport
        self.dim = pipeline.dim
        self.modalities = passport.modalities
        self.device = str(device)
        self.image_size = pipeline.image.output and pipeline.image.output[0]
        self.context_length = pipeline.text.context_length if pipeline.text else 0
        self._image, self._text = pipeline.image, pipeline.text
        self._network, self._target = network, device
        self._pixels = PixelBatch(pipeline.image, device, DTYPES[passport.dtype])
        self._loader = Loader(device)

    def decode_size(self, width: int, height: int) -> tuple[int, int]:
        """The width and height that a decoder which can scale must leave of an image, lying or upright."""
        return self._image.decode_size(width, height)

    def prepare_image(self, image: np.ndarray) -> np.ndarray:
        """Resize and crop as the checkpoint asks.

        Args:
            image: uint8 (height, width, 3), RGB, of any size.

        Returns:
            uint8 (image_size, image_size, 3), or whole patches of any aspect.

        Raises:
            InvalidInput: not such an array.
        """
        return self._image.apply(image)

    def prepare_text(self, text: str) -> PreparedText:
        """Tokenise; `truncated` says whether the model will read less than the whole text.

        Raises:
            InvalidInput: not valid Unicode.
            NoTextTower: the model encodes images only.
        """
        if self._text is None:
            raise NoTextTower(self.passport.model)
        return self._text.prepare(text)

    def collate_images(self, pixels: Sequence[np.ndarray]) -> Batch:
        """A batch on the device, of at least one image; may be made while a forward runs.

        Args:
            pixels: what `prepare_image` returned.

        Raises:
            InvalidInput: an array of another shape or type.
        """
        return self._loader.load("image", len(pixels), lambda: self._pixels(pixels))

    def collate_texts(self, texts: Sequence[PreparedText]) -> Batch:
        """A batch on the device, of at least one text; may be made while a forward runs. It costs its longest.

        Args:
            texts: what `prepare_text` returned.

        Raises:
            NoTextTower: the model encodes images only.
        """
        if (pipeline := self._text) is None:
            raise NoTextTower(self.passport.model)
        return self._loader.load(
            "text", len(texts), lambda: {name: value.to(self._target) for name, value in pipeline.batch(texts).items()}
        )

    def forward(self, batch: Batch) -> np.ndarray:
        """Vectors of a batch.

        Returns:
            float32 (n, dim), not normalised: recipes need the norm, and the writer stores it beside the unit vector.

        Raises:
            NonFiniteVectors: NaN or infinity, with the indices.
        """
        tower = self._network.images if batch.what == "image" else self._network.texts
        if tower is None:
            raise NoTextTower(self.passport.model)
        with torch.inference_mode():
            vectors: np.ndarray = tower(**self._loader.arrived(batch)).float().cpu().numpy()
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            raise NonFiniteVectors(np.flatnonzero(~finite).tolist(), batch.what, self.passport.dtype)
        return vectors

    def encode_images(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Vectors of prepared images, any number: `collate_images` and `forward`."""
        return self.forward(self.collate_images(pixels)) if len(pixels) else np.empty((0, self.dim), np.float32)

    def encode_texts(self, texts: Sequence[PreparedText]) -> np.ndarray:
        """Vectors of prepared texts, any number: `collate_texts` and `forward`.

        Sort them by length where many are encoded.
        """
        if self._text is None:
            raise NoTextTower(self.passport.model)
        return self.forward(self.collate_texts(texts)) if len(texts) else np.empty((0, self.dim), np.float32)


def load_encoder(model: str, revision: str | None = None, device: str = "auto", dtype: str | None = None) -> Encoder:
    """Load a checkpoint of one of `models.families`, and encode one image and one text to see that it works.

    Args:
        model: a hub id, a folder, or "bundled" for the model that comes with sightline.
        revision: branch, tag or commit of a hub repository.
        device: "auto", "cpu", "cuda" or "cuda:1".
        dtype: "float32", "bfloat16" or "float16"; None is float32 on a CPU and bfloat16 on a GPU.

    Raises:
        ModelError: one of the tree in `models.errors`, with what to do about it.
    """
    target = pick_device(device)
    number_format = pick_dtype(dtype, target)
    pipeline = open_pipeline(model, revision)
    checkpoint = pipeline.checkpoint
    before = state_of(checkpoint.folder)
    network = pipeline.family.load(checkpoint, pipeline.config, target, DTYPES[number_format])
    encoder = Encoder(pipeline, network, pipeline.passport(number_format), target)
    if state_of(checkpoint.folder) != before:
        raise BrokenCheckpoint(
            f"the files of {checkpoint.model} changed while they were loaded, so that weights and passport may not "
            f"belong together; load it again once they are all there"
        )
    _try_out(encoder)
    return encoder


def _try_out(encoder: Encoder) -> None:
    """One image and one text: their vectors must have the length that the passport promises."""
    vectors = {"image": encoder.encode_images([encoder.prepare_image(np.zeros((64, 64, 3), np.uint8))])}
    if "text" in encoder.modalities:
        vectors["text"] = encoder.encode_texts([encoder.prepare_text("a photo")])
    for what, found in vectors.items():
        if found.shape != (1, encoder.dim):
            raise BrokenCheckpoint(
                f"an {what} vector of {encoder.passport.model} has shape {found.shape}, but its configuration promises "
                f"{encoder.dim} dimensions"
            )
