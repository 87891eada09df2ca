"""Encoders of images only: DINOv2 (arXiv 2304.07193), with registers too (arXiv 2309.16588), and ResNet (1512.03385).

Their checkpoints come with a classification head or without; it is left out. DINOv2 takes images of another size than
it was trained at, and interpolates its position table as transformers does.
"""

from __future__ import annotations

from typing import Any

from models.families.family import Family
from models.families.hub import any_images, load_config, load_features
from models.files import Checkpoint


def _width(_: Checkpoint, config: Any) -> int:
    return int(config.hidden_size)


def _last_width(_: Checkpoint, config: Any) -> int:
    return int(config.hidden_sizes[-1])


DINOV2 = Family(
    kind="dinov2",
    image_pooling="class token",
    config=load_config,
    image=any_images("Bit"),
    dim=_width,
    text=None,
    load=load_features("Dinov2Model"),
)
DINOV2_REGISTERS = Family(
    kind="dinov2_with_registers",
    image_pooling="class token",
    config=load_config,
    image=any_images("Bit"),
    dim=_width,
    text=None,
    load=load_features("Dinov2WithRegistersModel"),
)
RESNET = Family(
    kind="resnet",
    image_pooling="mean of positions",
    config=load_config,
    image=any_images("ConvNext"),
    dim=_last_width,
    text=None,
    load=load_features("ResNetModel"),
)
