"""Names of colours: each pixel has the name of the nearest known colour in a space made for perceived differences."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from models.errors import ModelError
from models.experts.finding import WHOLE, Box, Finding, Found, crop
from models.preprocess import check_rgb
from models.protocols import Identity

VOCABULARY: Final = Path(__file__).with_suffix(".toml")
_MOST_PIXELS: Final = 64 * 64


def oklab(rgb: np.ndarray) -> np.ndarray:
    """sRGB in [0, 255], (..., 3), to OKLab: lightness in [0, 1], green-red, blue-yellow.

    Matrices of Björn Ottosson, "A perceptual color space for image processing" (2020), in which equal distances look
    about equally far.
    """
    values = np.asarray(rgb, np.float64) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    cones = np.cbrt(linear @ _TO_CONES.T)
    lab: np.ndarray = cones @ _TO_LAB.T
    return lab


_TO_CONES: Final = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB: Final = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


@cache
def _known() -> tuple[tuple[str, ...], np.ndarray]:
    """(name of each sample, their OKLab (n, 3))."""
    content = tomllib.loads(VOCABULARY.read_text(encoding="utf-8"))["colours"]
    samples = [(name, rgb) for name, many in content.items() for rgb in many]
    return tuple(name for name, _ in samples), oklab(np.array([rgb for _, rgb in samples]))


def colour_shares(image: np.ndarray, mask: np.ndarray | None = None) -> dict[str, float]:
    """The names of an image's colours and the share of its pixels that each has, largest first.

    Args:
        image: uint8 (height, width, 3), RGB.
        mask: bool (height, width): the pixels that count; all of them if None. An empty mask gives no names.

    Raises:
        InvalidInput: no RGB image.
    """
    check_rgb(image)
    if mask is None:
        small = Image.fromarray(image)
        if image.shape[0] * image.shape[1] > _MOST_PIXELS:
            # Nearest: a filter would mix colours at edges and name the mixture.
            share = (_MOST_PIXELS / (image.shape[0] * image.shape[1])) ** 0.5
            size = max(1, int(image.shape[1] * share)), max(1, int(image.shape[0] * share))
            small = small.resize(size, Image.Resampling.NEAREST)
        pixels = np.asarray(small).reshape(-1, 3)
    else:
        pixels = image[mask]
        pixels = pixels[:: max(1, len(pixels) // _MOST_PIXELS)]
    if not len(pixels):
        return {}
    names, known = _known()
    nearest = ((oklab(pixels)[:, None] - known[None]) ** 2).sum(-1).argmin(-1)
    counts: dict[str, float] = {}
    for index, count in zip(*np.unique(nearest, return_counts=True), strict=True):
        counts[names[index]] = counts.get(names[index], 0.0) + count / len(pixels)
    return dict(sorted(counts.items(), key=lambda pair: -pair[1]))


class ColourNamer:
    """Colours that cover at least a twentieth; conforms to `models.experts.finding.Expert`."""

    name = "colours"
    trusted = 0.05

    def __init__(self) -> None:
        self.identity = Identity(
            model="colour names",
            revision=None,
            kind="colours",
            weights=None,
            tokenizer=None,
            preprocessing="OKLab, nearest sample",
            dtype="float64",
            source="bundled",
            libraries={"numpy": version("numpy")},
        )

    def find(self, images: Sequence[np.ndarray]) -> list[Found]:
        """The colours of each whole image; the score is the share of its pixels."""
        found: list[Found] = []
        for image in images:
            try:
                found.append(self.of(image, WHOLE))
            except ModelError as error:
                found.append(error)
        return found

    def of(self, image: np.ndarray, box: Box) -> list[Finding]:
        """The colours of what a box holds. Raises InvalidInput."""
        check_rgb(image)
        return [
            Finding(self.name, "colour", name, share, box)
            for name, share in colour_shares(crop(image, box)).items()
            if share >= self.trusted
        ]
