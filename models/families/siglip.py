"""SigLIP (Zhai et al. 2023, arXiv 2303.15343) and SigLIP 2 (Tschannen et al. 2025, arXiv 2502.14786).

SigLIP 2 of fixed resolution is of type siglip. Its NaFlex variant, of type siglip2, keeps the aspect of an image: it
reads a varying number of patches, whose padding in a batch is masked, so that a vector does not depend on its batch.
"""

from __future__ import annotations

from typing import Any

from models.errors import BrokenCheckpoint, UnsupportedModel
from models.families.family import Family
from models.families.hub import any_images, fixed_images, load_config, load_dual
from models.files import Checkpoint
from models.preprocess import ImagePipeline
from models.text import TextRules


def _texts(_: Checkpoint, config: Any) -> TextRules:
    tower = config.text_config
    return TextRules(
        padding="context",
        context_length=tower.max_position_embeddings,
        vocabulary=tower.vocab_size,
        pooling="last position",
        lower=True,
    )


def _dim(checkpoint: Checkpoint, config: Any) -> int:
    vision, text = config.vision_config, config.text_config
    if not vision.vision_use_head:
        raise UnsupportedModel(f"{checkpoint.model} has no pooling head for images (vision_use_head is false)")
    if vision.hidden_size != text.projection_size:
        raise BrokenCheckpoint(
            f"images of {checkpoint.model} have {vision.hidden_size} dimensions and texts {text.projection_size}; "
            f"they cannot be compared"
        )
    return int(vision.hidden_size)


def _naflex_images(checkpoint: Checkpoint, config: Any) -> ImagePipeline:
    found = any_images("Siglip2")(checkpoint, config)
    patch = config.vision_config.patch_size
    if found.patches is None or found.patches[0] != patch:
        raise BrokenCheckpoint(
            f"the image processor of {checkpoint.model} cuts patches of {found.patches and found.patches[0]} pixels, "
            f"but its vision tower takes {patch}; correct preprocessor_config.json or config.json"
        )
    return found


SIGLIP = Family(
    kind="siglip",
    image_pooling="attention head",
    config=load_config,
    image=fixed_images("Siglip"),
    dim=_dim,
    text=_texts,
    load=load_dual("SiglipModel"),
)
SIGLIP2_NAFLEX = Family(
    kind="siglip2",
    image_pooling="attention head",
    config=load_config,
    image=_naflex_images,
    dim=_dim,
    text=_texts,
    load=load_dual("Siglip2Model"),
)
