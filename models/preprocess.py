"""The image side of a checkpoint: uint8 RGB of any size to the uint8 pixels that its vision tower takes.

Follows the checkpoint's own image processor, which `models.image_config` reads, with Pillow and without torchvision.
The pixels equal those of the Pillow-backed processor of transformers, bit for bit, up to an aspect of `_FULL_RESIZE`.
Beyond it (1 x 20000) the whole image would be resized to gigabytes for the window that the crop keeps, so the window
alone is computed. Pillow may then take the two passes of a resize in the other order, and rounds to 8 bits between
them: a value may differ by 1 of 255, by more where a filter overshoots (bicubic and Lanczos on black-and-white noise).

Rescaling and normalisation are left to the device (`ImagePipeline.scale`, `mean`, `std`).
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from models.errors import InvalidInput

_VERSION = 1  # part of the digest: raise it when `apply` computes other pixels from the same configuration
DECODING = "JPEG scaled by the DCT to 1/2, 1/4 or 1/8 where that divides it and leaves at least twice the resized size"
"""How files become the pixels that `apply` takes, for passports; `decode_size` is the rule. Vectors of a scaled and of
a whole decoding agree to a cosine above 0.999 (tests/workers/test_images.py)."""
_SPARE = 2
"""Decoded over resized pixels, along a side: fewer, and the filter of the resize would not decide what is seen."""
_FULL_RESIZE = 32  # resized pixels over cropped pixels, up to which the whole image is resized
_WIDEST_SUPPORT = 3  # of Pillow's filters (Lanczos), in output pixels when shrinking, in input pixels when enlarging
FILTERS = {f.value: f.name.lower() for f in Image.Resampling}


def check_rgb(image: np.ndarray) -> None:
    """Raise InvalidInput if this is no uint8 RGB image of at least one pixel."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InvalidInput(
            f"expected a uint8 RGB image of shape (height, width, 3), got {image.dtype} {image.shape}; "
            f"convert it (PIL: image.convert('RGB')) first"
        )


@dataclass(frozen=True, slots=True)
class ImagePipeline:
    """How one checkpoint's images are prepared. Immutable and safe in threads; Pillow resizes without the GIL.

    Args:
        edge: resize so that the shorter side has this length, or None.
        exact: resize to exactly (height, width), or None. With neither the image is not resized.
        crop: centre crop to (height, width), zeros where the image is smaller, or None.
        resample: Pillow's number of the filter; all but nearest antialias when shrinking.
        scale, mean, std: the device computes (pixel * scale - mean) / std for each of the three channels.
        patches: (side, most): resize, whatever the rest says, so that height and width are multiples of a patch's side,
            at most so many patches cover the image, and its aspect is kept as far as that allows (NaFlex). None: not.
        round_crop: a crop that cannot be centred exactly starts at the even one of the two pixels (torchvision's
            rounding, in open_clip), not at the first (transformers).
    """

    edge: int | None
    exact: tuple[int, int] | None
    crop: tuple[int, int] | None
    resample: int
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    patches: tuple[int, int] | None = None
    round_crop: bool = False

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
        rules = {**asdict(self), "resample": FILTERS[self.resample], "antialias": self.resample != 0}
        for later in ("patches", "round_crop"):  # not there where they say nothing, so that older digests stay
            if not rules[later]:
                del rules[later]
        return {"version": _VERSION} | {k: list(v) if isinstance(v, tuple) else v for k, v in rules.items()}

    def decode_size(self, width: int, height: int) -> tuple[int, int]:
        """The width and height at which a JPEG of this size is decoded, lying or upright: itself, or 1/2, 1/4 or 1/8.

        Both sides must be divisible, or the scaled image would have another aspect, and what a crop keeps would move.
        """
        high, wide = self._resized(height, width)
        turned_wide, turned_high = self._resized(width, height)  # as EXIF may say
        for scale in (8, 4, 2):
            if not width % scale and not height % scale and (high, wide) != (height, width):
                less = width // scale, height // scale
                if less[0] >= _SPARE * max(wide, turned_wide) and less[1] >= _SPARE * max(high, turned_high):
                    return less
        return width, height

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Resize and crop one image; a pure function of its pixels.

        Args:
            image: uint8 (height, width, 3), RGB, any size from 1 x 1.

        Returns:
            uint8 (height, width, 3), of `output` if that is given, contiguous, sharing no memory with the image.

        Raises:
            InvalidInput: not such an array.
        """
        check_rgb(image)
        height, width = image.shape[:2]
        to_height, to_width = self._resized(height, width)
        if self.crop is None:
            return _resize(image, to_height, to_width, self.resample)
        rows = _Window.centred(to_height, self.crop[0], self.round_crop)
        columns = _Window.centred(to_width, self.crop[1], self.round_crop)
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
        if self.patches is not None:
            return _patched(height, width, *self.patches)
        if self.exact is not None:
            return self.exact
        if self.edge is None:
            return height, width
        if width <= height:
            return int(self.edge * height / width), self.edge
        return self.edge, int(self.edge * width / height)


def _patched(height: int, width: int, side: int, most: int) -> tuple[int, int]:
    """The size at which whole patches cover an image of any aspect, each side rounded up to a patch (SigLIP 2, section
    2.4). The scale is bisected between the bounds and to the width of the published processor, or sizes would differ.
    """

    def grid(scale: float) -> tuple[int, int]:
        return max(1, math.ceil(height * scale / side)), max(1, math.ceil(width * scale / side))

    low, high = 1e-6, 100.0
    while high - low >= 1e-5:
        middle = (low + high) / 2
        rows, columns = grid(middle)
        low, high = (middle, high) if rows * columns <= most else (low, middle)
    rows, columns = grid(low)
    return rows * side, columns * side


@dataclass(frozen=True, slots=True)
class _Window:
    """What a centre crop keeps of one axis of the resized image, and where it goes in the output."""

    start: int
    length: int
    pad: int

    @classmethod
    def centred(cls, size: int, crop: int, to_even: bool) -> _Window:
        """An image smaller than the crop is put in the middle: the odd pixel before it, as transformers does, or behind
        it, as torchvision does, which also rounds the start of a crop to even."""
        if size >= crop:
            return cls(start=round((size - crop) / 2) if to_even else (size - crop) // 2, length=crop, pad=0)
        return cls(start=0, length=size, pad=(crop - size) // 2 if to_even else (crop - size + 1) // 2)

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
