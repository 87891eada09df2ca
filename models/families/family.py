"""What `models` has to know of a family of encoders in order to serve its checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models.files import Checkpoint
from models.preprocess import ImagePipeline
from models.text import TextRules

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Network:
    """The weights of one encoder on one device.

    Args:
        module: all of the weights.
        images: what `PixelBatch` makes, by keyword, to (n, dim).
        texts: what `TextPipeline.batch` makes, by keyword, to (n, dim); None for encoders of images only.
    """

    module: torch.nn.Module
    images: Callable[..., torch.Tensor]
    texts: Callable[..., torch.Tensor] | None


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of checkpoint. Every function reads the checkpoint's own files and raises one of `models.errors`.

    Args:
        kind: `model_type` in config.json, or the name of another format; `kind` in passports.
        image_pooling: what becomes the vector of an image, in words.
        config: the configuration of the towers: an object with `vision_config` and `text_config`, or one tower's.
        image: how images are prepared; refuses a preparation that the vision tower cannot take.
        dim: length of the vectors.
        text: how texts are prepared, or None where there is no text tower.
        load: the weights on a device in a number format.
    """

    kind: str
    image_pooling: str
    config: Callable[[Checkpoint], Any]
    image: Callable[[Checkpoint, Any], ImagePipeline]
    dim: Callable[[Checkpoint, Any], int]
    text: Callable[[Checkpoint, Any], TextRules] | None
    load: Callable[[Checkpoint, Any, torch.device, torch.dtype], Network]
