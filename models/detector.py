"""The detector that comes with sightline: boxes with shape and colour, for rendered scenes only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from models.blip import BlipCheckpoint, open_blip
from models.device import pick_device
from models.errors import BrokenCheckpoint, NonFinite, UnsupportedModel
from models.pixels import PixelBatch
from models.scenes.detector import Detection, DetectorHead

__all__ = ["Detection", "SceneDetector", "load_detector"]

_HEAD = "detector."


class SceneDetector:
    """A vision tower and the head that reads its patches. `prepare_image` may be called by many threads at once."""

    def __init__(self, opened: BlipCheckpoint, tower: Any, head: DetectorHead, device: torch.device) -> None:
        self.identity = opened.identity(None, "float32")
        self.device = str(device)
        self._image, self._tower, self._head = opened.image, tower, head
        self._pixels = PixelBatch(opened.image, device, torch.float32)

    def prepare_image(self, image: np.ndarray) -> np.ndarray:
        """Resize as the checkpoint asks: uint8 RGB of any size to a uint8 square. Raises InvalidInput."""
        return self._image.apply(image)

    def detect(self, pixels: Sequence[np.ndarray], least: float = 0.05) -> list[list[Detection]]:
        """What lies in each prepared image, best first; what scores less than ``least`` is left out.

        Boxes are (left, top, right, bottom) in shares of the image's sides.

        Raises:
            NonFinite: NaN or infinity, with the indices.
        """
        if not pixels:
            return []
        with torch.inference_mode():
            tokens = self._tower(**self._pixels(pixels)).last_hidden_state[:, 1:]
        bad = torch.nonzero(~torch.isfinite(tokens).flatten(1).all(1)).flatten().tolist()
        if bad:
            raise NonFinite(bad, "detections", self.identity.dtype)
        return self._head.detect(tokens, least)


def load_detector(model: str = "bundled", device: str = "auto") -> SceneDetector:
    """Load the detector of a checkpoint that has one.

    Args:
        model: "bundled", or a folder that `models.scenes.train` wrote.
        device: "auto", "cpu", "cuda" or "cuda:1".

    Raises:
        ModelError: one of the tree in `models.errors`, with what to do about it.
    """
    target = pick_device(device)
    opened = open_blip(model)
    weights = {name.removeprefix(_HEAD): value.float() for name, value in opened.weights((_HEAD,)).items()}
    if not weights:
        raise UnsupportedModel(f"{opened.checkpoint.model} has no detector; the bundled captioner has one")
    head = DetectorHead(opened.config.vision_config.hidden_size)
    try:
        head.load_state_dict(weights)
    except RuntimeError as error:
        raise BrokenCheckpoint(f"the detector of {opened.checkpoint.model} has weights of other shapes") from error
    tower = opened.load("BlipVisionModel", ("vision_model.",), target, torch.float32)
    return SceneDetector(opened, tower, head.eval().requires_grad_(False).to(target), target)
