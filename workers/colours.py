"""Decoded pixels to what a model sees: sRGB of 8 bits, upright, transparency laid over white."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageCms

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_SAME = 2
"""Levels of 255 by which a profile may differ from sRGB and pass for it."""
_SPACES = {"L": "GRAY", "RGB": "RGB ", "CMYK": "CMYK"}


class BadProfile(Exception):
    """A colour profile that is damaged, or of another colour space than the image."""


def upright(pixels: Image.Image, image: Image.Image) -> Image.Image:
    """Turn the pixels of an image as its EXIF orientation says."""
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - a damaged EXIF block says nothing about the pixels
        return pixels
    return pixels if turn is None else pixels.transpose(turn)


Conversion = ImageCms.ImageCmsTransform
"""From the RGB of some profile to sRGB."""


def to_rgb(image: Image.Image, notes: list[str]) -> tuple[Image.Image, Conversion | None]:
    """Any mode to RGB, and the conversion to sRGB that is still to be done; what had to be ignored goes to `notes`."""
    profile = image.info.get("icc_profile")
    if image.mode == "CMYK" and image.format in ("JPEG", "MPO") and "adobe" not in image.info:
        image = ImageChops.invert(image)  # Pillow takes every CMYK JPEG for one of Adobe's, which hold inverted inks
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_to_eight_bits(np.asarray(image)))
    if not image.has_transparency_data:
        return _opaque(image, profile, notes)
    grey = image.mode in ("1", "L", "LA", "La")
    image = image.convert("RGBA")
    alpha = image.getchannel("A")
    rgb, conversion = _opaque(image.convert("L" if grey else "RGB"), profile, notes)
    white = Image.new("RGB", rgb.size, "white")  # which is white in every profile
    white.paste(rgb, mask=alpha)
    return white, conversion


def convert(pixels: np.ndarray, conversion: Conversion) -> np.ndarray:
    """uint8 (height, width, 3) to sRGB."""
    return np.asarray(conversion.apply(Image.fromarray(pixels)))


def _opaque(image: Image.Image, profile: object, notes: list[str]) -> tuple[Image.Image, Conversion | None]:
    if image.mode not in _SPACES:
        image = image.convert("L" if image.mode == "1" else "RGB")
    conversion = None
    if isinstance(profile, bytes) and profile:
        try:
            conversion = _to_srgb(profile, image.mode)
        except BadProfile as error:
            notes.append(str(error))
    if image.mode == "RGB":
        return image, conversion
    return (image.convert("RGB") if conversion is None else conversion.apply(image)), None


@lru_cache(maxsize=16)
def _to_srgb(profile: bytes, mode: str) -> Conversion | None:
    """The conversion from a profile; None if it is sRGB as far as the eye can tell.

    Raises:
        BadProfile: it cannot be used for an image of this mode.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space
        if space != _SPACES[mode]:
            raise BadProfile(f"its colour profile is for {space.strip()}, not for {mode}, and was ignored")
        transform = ImageCms.ImageCmsTransform(source, _srgb(), mode, "RGB")
        samples = _samples(mode)
        if mode != "CMYK":
            before = np.asarray(samples.convert("RGB")).astype(int)
            if np.abs(np.asarray(transform.apply(samples)) - before).max() <= _SAME:
                return None
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, AttributeError) as error:
        raise BadProfile("its colour profile is damaged and was ignored") from error
    return transform


def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _samples(mode: str) -> Image.Image:
    """Colours all over the cube, or all greys."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8).reshape(1, 256))
    steps = np.linspace(0, 255, 6).round().astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    return Image.fromarray(cube).convert(mode)


def _to_eight_bits(levels: np.ndarray) -> np.ndarray:
    """Grey levels of 16 or 32 bits, or floats (0 to 1, or 0 to 255), to uint8. Pillow's own conversion clips them."""
    if levels.dtype.kind == "f":
        finite = np.nan_to_num(levels, nan=0.0, posinf=255.0, neginf=0.0)
        factor = 255.0 if finite.max(initial=0.0) <= 1.0 else 1.0
    else:
        finite = levels
        factor = 255.0 / (65535.0 if levels.max(initial=0) <= 65535 else 2**31 - 1.0)
    eight = np.empty(levels.shape, np.uint8)
    for row in range(0, len(levels), 256):  # the float copy of a whole image would be its largest
        scaled = finite[row : row + 256].astype(np.float32) * factor
        eight[row : row + 256] = np.clip(np.rint(scaled), 0, 255)
    return eight
