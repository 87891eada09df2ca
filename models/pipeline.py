"""All of an encoder but its weights: the cheap half of loading it, and all that its passport needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from models.checkpoint import open_checkpoint
from models.families import FAMILIES, Family
from models.files import Checkpoint
from models.passport import Passport, library_versions
from models.preprocess import DECODING, ImagePipeline
from models.text import TextPipeline, load_text

_ARITHMETIC = (
    "hidden_act", "num_attention_heads", "layer_norm_eps", "layer_type", "downsample_in_first_stage",
    "downsample_in_bottleneck", "use_swiglu_ffn",
)  # fmt: skip
"""What a configuration says of the arithmetic of a tower that the shapes of its weights do not."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A checkpoint, read and found to fit together, before any weight is on a device. `text` is None without a tower
    for it."""

    checkpoint: Checkpoint
    family: Family
    config: Any
    text: TextPipeline | None
    image: ImagePipeline
    dim: int

    def passport(self, dtype: str) -> Passport:
        """The passport of the space that this model spans. Reads the weights once, for their digest.

        Args:
            dtype: number format that the forward will use.
        """
        checkpoint, text = self.checkpoint, self.text
        return Passport(
            model=checkpoint.model,
            revision=checkpoint.revision,
            kind=checkpoint.kind,
            dim=self.dim,
            weights=checkpoint.weights_digest(),
            tokenizer=text.digest if text else None,
            context_length=text.context_length if text else None,
            text_padding=text.padding if text else None,
            pooling=f"image: {self.family.image_pooling}" + (f"; text: {text.pooling}" if text else ""),
            preprocessing=self.image.digest,
            image_pipeline=self.image.describe(),
            normalisation="none",
            dtype=dtype,
            source=checkpoint.source,
            libraries=library_versions(),
            modalities=("image", "text") if text else ("image",),
            towers=_towers(self.config),
            decoding=DECODING,
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
    family = FAMILIES[checkpoint.kind]
    config = family.config(checkpoint)
    image = family.image(checkpoint, config)
    text = load_text(checkpoint, family.text(checkpoint, config)) if family.text else None
    return Pipeline(checkpoint, family, config, text, image, family.dim(checkpoint, config))


def _towers(config: Any) -> str:
    """The arithmetic of each tower, in words: an activation that differs gives other vectors from the same weights."""
    towers = {"image": getattr(config, "vision_config", config), "text": getattr(config, "text_config", None)}
    return "; ".join(
        f"{what}: " + ", ".join(f"{key} {getattr(tower, key)}" for key in _ARITHMETIC if hasattr(tower, key))
        for what, tower in towers.items()
        if tower is not None
    )
