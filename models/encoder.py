"""The dual encoder: images and texts to vectors of one space."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from models.checkpoint import bundled_model, first_line
from models.device import DTYPES, pick_device, pick_dtype
from models.errors import BrokenCheckpoint, InvalidInput, NonFiniteVectors
from models.passport import Passport
from models.pipeline import Pipeline, open_pipeline
from models.text import PreparedText

__all__ = ["Encoder", "PreparedText", "bundled_model", "load_encoder"]

_UNUSED = ("logit_scale", "logit_bias")  # scale the similarities of training; no vector depends on them


class Encoder:
    """One model on one device.

    `prepare_*` may be called by many threads at once; `encode_*` by one at a time. A vector depends on its own input
    alone: in float32 it is the same in any batch to 1e-5.

    Attributes:
        passport: identity of the space.
        dim: length of the vectors.
        device: where the forward runs, "cpu" or "cuda:0".
        image_size: height and width of prepared images.
        context_length: tokens of the longest text that is not cut.
    """

    def __init__(self, pipeline: Pipeline, network: Any, passport: Passport, device: torch.device) -> None:
        self.passport = passport
        self.dim = pipeline.dim
        self.device = str(device)
        self.image_size = int(pipeline.config.vision_config.image_size)
        self.context_length = pipeline.text.context_length
        self._image, self._text = pipeline.image, pipeline.text
        self._network = network
        self._target, self._dtype = device, DTYPES[passport.dtype]
        # (pixel * scale - mean) / std as one multiplication and one subtraction
        std = torch.tensor(self._image.std, device=device).view(1, 3, 1, 1)
        self._factor = self._image.scale / std
        self._shift = torch.tensor(self._image.mean, device=device).view(1, 3, 1, 1) / std

    def prepare_image(self, image: np.ndarray) -> np.ndarray:
        """Resize and crop as the checkpoint asks.

        Args:
            image: uint8 (height, width, 3), RGB, of any size.

        Returns:
            uint8 (image_size, image_size, 3).

        Raises:
            InvalidInput: not such an array.
        """
        return self._image.apply(image)

    def prepare_text(self, text: str) -> PreparedText:
        """Tokenise; `truncated` says whether the model will read less than the whole text.

        Raises:
            InvalidInput: not valid Unicode.
        """
        return self._text.prepare(text)

    def encode_images(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Vectors of prepared images.

        Args:
            pixels: what `prepare_image` returned, any number.

        Returns:
            float32 (n, dim), not normalised: recipes need the norm, and the writer stores it beside the unit vector.

        Raises:
            InvalidInput: an array of another shape or type.
            NonFiniteVectors: NaN or infinity, with the indices.
        """
        expected = (self.image_size, self.image_size, 3)
        for index, image in enumerate(pixels):
            if image.shape != expected or image.dtype != np.uint8:
                raise InvalidInput(
                    f"image {index} of the batch is {image.dtype} {image.shape}, expected uint8 {expected}; "
                    f"pass what prepare_image returns"
                )
        if not len(pixels):
            return np.empty((0, self.dim), np.float32)
        with torch.inference_mode():
            batch = torch.from_numpy(np.stack(pixels)).to(self._target).permute(0, 3, 1, 2).float()
            batch = (batch * self._factor - self._shift).to(self._dtype)
            return self._vectors(self._network.get_image_features(pixel_values=batch), "image")

    def encode_texts(self, texts: Sequence[PreparedText]) -> np.ndarray:
        """Vectors of prepared texts; sort them by length where many are encoded, a batch costs its longest.

        Args:
            texts: what `prepare_text` returned, any number.

        Returns:
            float32 (n, dim), not normalised.

        Raises:
            NonFiniteVectors: NaN or infinity, with the indices.
        """
        if not len(texts):
            return np.empty((0, self.dim), np.float32)
        with torch.inference_mode():
            batch = {name: value.to(self._target) for name, value in self._text.batch(texts).items()}
            return self._vectors(self._network.get_text_features(**batch), "text")

    def _vectors(self, output: Any, what: str) -> np.ndarray:
        # transformers 5 returns an output object whose pooler_output is projected, some versions the tensor itself
        features = output if isinstance(output, torch.Tensor) else output.pooler_output
        vectors: np.ndarray = features.float().cpu().numpy()
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            raise NonFiniteVectors(np.flatnonzero(~finite).tolist(), what, self.passport.dtype)
        return vectors


def load_encoder(model: str, revision: str | None = None, device: str = "auto", dtype: str | None = None) -> Encoder:
    """Load a CLIP or SigLIP checkpoint, and encode one image and one text to see that it works.

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
    network = _load_network(pipeline, target, DTYPES[number_format])
    encoder = Encoder(pipeline, network, pipeline.passport(number_format), target)
    _try_out(encoder)
    return encoder


def _load_network(pipeline: Pipeline, device: torch.device, dtype: torch.dtype) -> Any:
    from safetensors import SafetensorError
    from transformers import CLIPModel, SiglipModel

    name, folder = pipeline.checkpoint.model, pipeline.checkpoint.folder
    architecture = {"clip": CLIPModel, "siglip": SiglipModel}[pipeline.checkpoint.kind]
    try:
        with _no_progress_bar():
            network, report = architecture.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
            )
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise BrokenCheckpoint(f"the weights of {name} cannot be loaded: {first_line(error)}") from error
    # transformers fills what is missing with random numbers and goes on
    missing = sorted(key for key in report["missing_keys"] if key not in _UNUSED)
    if missing:
        raise BrokenCheckpoint(
            f"{name} lacks {len(missing)} weights that its config.json calls for, such as {missing[0]}; "
            f"fetch or convert it again"
        )
    return network.eval().requires_grad_(False).to(device)


def _try_out(encoder: Encoder) -> None:
    """One image and one text: their vectors must have the length that the passport promises."""
    black = np.zeros((encoder.image_size, encoder.image_size, 3), np.uint8)
    for what, vectors in (
        ("image", encoder.encode_images([black])),
        ("text", encoder.encode_texts([encoder.prepare_text("a photo")])),
    ):
        if vectors.shape != (1, encoder.dim):
            raise BrokenCheckpoint(
                f"an {what} vector of {encoder.passport.model} has shape {vectors.shape}, but its config.json promises "
                f"{encoder.dim} dimensions"
            )


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """transformers draws one bar for each load, also into the logs of a worker."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
