"""The image side of a checkpoint: uint8 RGB of any size to the uint8 square that its vision tower takes.

Follows the checkpoint's own `preprocessor_config.json` with Pillow, without torchvision. The pixels equal those of the
Pillow-backed processor of transformers, bit for bit, up to an aspect of `_FULL_RESIZE`. Beyond it (1 x 20000) the whole
image would be resized to gigabytes for the window that the crop keeps, so the window alone is computed. Pillow may then
take the two passes of a resize in the other order, and rounds to 8 bits between them: a value may differ by 1 of 255,
by more where a filter overshoots (bicubic and Lanczos on black-and-white noise).

Rescaling and normalisation are left to the device (`ImagePipeline.scale`, `mean`, `std`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from models.errors import BrokenCheckpoint, InvalidInput, UnsupportedModel

_VERSION = 1  # part of the digest: raise it when `apply` computes other pixels from the same configuration
_FULL_RESIZE = 32  # resized pixels over cropped pixels, up to which the whole image is resized
_WIDEST_SUPPORT = 3  # of Pillow's filters (Lanczos), in output pixels when shrinking, in input pixels when enlarging
_FILTERS = {f.value: f.name.lower() for f in Image.Resampling}

_CLIP = {
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "resample": 3,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_SIGLIP = {
    "size": {"height": 224, "width": 224},
    "do_center_crop": False,
    "resample": 3,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
_COMMON = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "do_pad": False}
# What each processor class of transformers assumes for a key that its file leaves out.
_DEFAULTS = {"CLIP": _CLIP | _COMMON, "Siglip": _SIGLIP | _COMMON}
_BY_KIND = {"clip": "CLIP", "siglip": "Siglip"}


@dataclass(frozen=True, slots=True)
class ImagePipeline:
    """How one checkpoint's images are prepared. Immutable and safe in threads; Pillow resizes without the GIL.

    Args:
        edge: resize so that the shorter side has this length, or None.
        exact: resize to exactly (height, width), or None. With neither the image is not resized.
        crop: centre crop to (height, width), zeros where the image is smaller, or None.
        resample: Pillow's number of the filter; all but nearest antialias when shrinking.
        scale, mean, std: the device computes (pixel * scale - mean) / std for each of the three channels.
    """

    edge: int | None
    exact: tuple[int, int] | None
    crop: tuple[int, int] | None
    resample: int
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def from_config(cls, config: Mapping[str, Any], kind: str) -> ImagePipeline:
        """Read the content of a `preprocessor_config.json`.

        Args:
            config: the parsed file; keys left out have the defaults of the processor class it names.
            kind: "clip" or "siglip", used where the file names no class.

        Raises:
            UnsupportedModel: a processor class, filter or step that this pipeline does not know.
            BrokenCheckpoint: sizes that cannot be read.
        """
        known = {**_DEFAULTS[_family(config, kind)], **config}
        if known["do_pad"]:
            raise UnsupportedModel("the image processor pads (do_pad); only resize and centre crop are supported")
        if known["resample"] not in _FILTERS:
            raise UnsupportedModel(f"resample is {known['resample']!r}; expected one of Pillow's {_FILTERS}")
        size = known["size"]
        edge, exact = None, None
        if known["do_resize"]:
            if isinstance(size, int) and kind == "clip":
                edge = size
            elif isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
                edge = int(size["shortest_edge"])
            else:
                exact = _height_width(size, "size")
        return cls(
            edge=edge,
            exact=exact,
            crop=_height_width(known["crop_size"], "crop_size") if known["do_center_crop"] else None,
            resample=int(known["resample"]),
            scale=float(known["rescale_factor"]) if known["do_rescale"] else 1.0,
            mean=_per_channel(known["image_mean"]) if known["do_normalize"] else (0.0, 0.0, 0.0),
            std=_per_channel(known["image_std"]) if known["do_normalize"] else (1.0, 1.0, 1.0),
        )

    @property
    def output(self) -> tuple[int, int] | None:
        """(height, width) of every prepared image; None if it depends on the image."""
        return self.crop or self.exact

    @property
    def digest(self) -> str:
        """sha256 of `describe()`: two pipelines with one digest give the same pixels."""
        return hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Every rule of the pipeline, JSON-able."""
        rules = {**asdict(self), "resample": _FILTERS[self.resample], "antialias": self.resample != 0}
        return {"version": _VERSION} | {k: list(v) if isinstance(v, tuple) else v for k, v in rules.items()}

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Resize and crop one image; a pure function of its pixels.

        Args:
            image: uint8 (height, width, 3), RGB, any size from 1 x 1.

        Returns:
            uint8 (*output, 3), contiguous, sharing no memory with the image.

        Raises:
            InvalidInput: not such an array.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise InvalidInput(
                f"expected a uint8 RGB image of shape (height, width, 3), got {image.dtype} {image.shape}; "
                f"convert it (PIL: image.convert('RGB')) before encoding"
            )
        height, width = image.shape[:2]
        to_height, to_width = self._resized(height, width)
        if self.crop is None:
            return _resize(image, to_height, to_width, self.resample)
        rows, columns = _Window.centred(to_height, self.crop[0]), _Window.centred(to_width, self.crop[1])
        if (to_height, to_width) == (height, width):
            part = image[rows.start : rows.start + rows.length, columns.start : columns.start + columns.length]
        elif to_height * to_width <= _FULL_RESIZE * rows.length * columns.length:
            whole = _resize(image, to_height, to_width, self.resample)
            part = whole[rows.start : rows.start + rows.length, columns.start : columns.start + columns.length]
        else:
            part = _resize_window(image, (to_height, to_width), rows, columns, self.resample)
        if part.shape[:2] != self.crop:
            canvas = np.zeros((*self.crop, 3), np.uint8)
            canvas[rows.pad : rows.pad + rows.length, columns.pad : columns.pad + columns.length] = part
            return canvas
        return np.array(part, order="C")  # a copy: the caller may reuse its buffer

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if self.exact is not None:
            return self.exact
        if self.edge is None:
            return height, width
        if width <= height:
            return int(self.edge * height / width), self.edge
        return self.edge, int(self.edge * width / height)


@dataclass(frozen=True, slots=True)
class _Window:
    """What a centre crop keeps of one axis of the resized image, and where it goes in the output."""

    start: int
    length: int
    pad: int

    @classmethod
    def centred(cls, size: int, crop: int) -> _Window:
        """An image smaller than the crop is put in the middle, the odd pixel before it, as transformers does."""
        if size >= crop:
            return cls(start=(size - crop) // 2, length=crop, pad=0)
        return cls(start=0, length=size, pad=(crop - size + 1) // 2)

    def source(self, size: int, resized: int) -> tuple[int, int, float, float]:
        """Input pixels that the window depends on: first, end, and the window's own bounds counted from the first."""
        ratio = size / resized
        low, high = self.start * ratio, (self.start + self.length) * ratio
        margin = math.ceil(_WIDEST_SUPPORT * max(1.0, ratio)) + 2
        first, end = max(0, math.floor(low) - margin), min(size, math.ceil(high) + margin)
        return first, end, max(0.0, low - first), min(float(end - first), high - first)


def _resize(image: np.ndarray, height: int, width: int, resample: int) -> np.ndarray:
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling(resample)))


def _resize_window(
    image: np.ndarray, resized: tuple[int, int], rows: _Window, columns: _Window, resample: int
) -> np.ndarray:
    """The part of the resized image that the crop keeps, in memory of the order of that part."""
    top, bottom, low_y, high_y = rows.source(image.shape[0], resized[0])
    left, right, low_x, high_x = columns.source(image.shape[1], resized[1])
    near = Image.fromarray(np.ascontiguousarray(image[top:bottom, left:right]))
    size, box = (columns.length, rows.length), (low_x, low_y, high_x, high_y)
    return np.array(near.resize(size, Image.Resampling(resample), box=box))


def _family(config: Mapping[str, Any], kind: str) -> str:
    name = config.get("image_processor_type") or config.get("feature_extractor_type")
    if name is None:
        return _BY_KIND[kind]
    for family in _DEFAULTS:
        if name in {f"{family}{role}{suffix}" for role in _ROLES for suffix in ("", "Fast", "Pil")}:
            return family
    raise UnsupportedModel(
        f"image processor {name!r} is not supported; expected CLIPImageProcessor or SiglipImageProcessor"
    )


_ROLES = ("ImageProcessor", "FeatureExtractor")


def _height_width(size: object, name: str) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    if isinstance(size, Mapping) and {"height", "width"} <= set(size):
        return int(size["height"]), int(size["width"])
    raise BrokenCheckpoint(f"{name} of the image processor is {size!r}; expected a number or a height and a width")


def _per_channel(value: object) -> tuple[float, float, float]:
    if isinstance(value, int | float):
        return float(value), float(value), float(value)
    if isinstance(value, list | tuple) and len(value) == 3:
        return float(value[0]), float(value[1]), float(value[2])
    raise BrokenCheckpoint(f"image_mean and image_std must be one number or three, got {value!r}")
