"""All of a dual encoder but its weights: the cheap half of loading it, and all that its passport needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from models.checkpoint import Checkpoint, load_config, open_checkpoint, read_image_config
from models.errors import BrokenCheckpoint, UnsupportedModel
from models.passport import Passport, library_versions
from models.preprocess import ImagePipeline
from models.text import TextPipeline, load_text

_IMAGE_POOLING = {"clip": "class token", "siglip": "attention head"}


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A checkpoint, read and found to fit together, before any weight is on a device."""

    checkpoint: Checkpoint
    config: Any
    text: TextPipeline
    image: ImagePipeline
    dim: int

    def passport(self, dtype: str) -> Passport:
        """The passport of the space that this model spans. Reads the weights once, for their digest.

        Args:
            dtype: number format that the forward will use.
        """
        checkpoint = self.checkpoint
        return Passport(
            model=checkpoint.model,
            revision=checkpoint.revision,
            kind=checkpoint.kind,
            dim=self.dim,
            weights=checkpoint.weights_digest(),
            tokenizer=self.text.digest,
            context_length=self.text.context_length,
            text_padding=self.text.padding,
            pooling=f"image: {_IMAGE_POOLING[checkpoint.kind]}; text: {self.text.pooling}",
            preprocessing=self.image.digest,
            image_pipeline=self.image.describe(),
            normalisation="none",
            dtype=dtype,
            source=checkpoint.source,
            libraries=library_versions(),
        )


def open_pipeline(model: str, revision: str | None = None) -> Pipeline:
    """Find, fetch and check a model without loading its weights.

    Args:
        model: a hub id, a folder, or "bundled".
        revision: branch, tag or commit of a hub repository.

    Raises:
        ModelError: one of the tree in `models.errors`, with what to do about it.
    """
    checkpoint = open_checkpoint(model, revision)
    config = load_config(checkpoint)
    image = ImagePipeline.from_config(read_image_config(checkpoint), checkpoint.kind)
    side = config.vision_config.image_size
    if image.output != (side, side):
        raise BrokenCheckpoint(
            f"the image processor of {checkpoint.model} gives {image.output or 'images of varying size'}, but its "
            f"vision tower takes {(side, side)}; correct preprocessor_config.json or config.json"
        )
    return Pipeline(checkpoint, config, load_text(checkpoint, config), image, _dim(checkpoint, config))


def _dim(checkpoint: Checkpoint, config: Any) -> int:
    if checkpoint.kind == "clip":
        return int(config.projection_dim)
    vision, text = config.vision_config, config.text_config
    if not vision.vision_use_head:
        raise UnsupportedModel(f"{checkpoint.model} has no pooling head for images (vision_use_head is false)")
    if vision.hidden_size != text.projection_size:
        raise BrokenCheckpoint(
            f"images of {checkpoint.model} have {vision.hidden_size} dimensions and texts {text.projection_size}; "
            f"they cannot be compared"
        )
    return int(vision.hidden_size)
