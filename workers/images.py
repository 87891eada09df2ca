"""Bytes to RGB: which formats, how many pixels, and what becomes of transparency, 16 bits and orientation."""

from __future__ import annotations

import io
import struct
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from workers.errors import BrokenImage, ItemError, NotAnImage, OutOfMemory, TooManyPixels, TruncatedImage

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Recognised by content, never by name. Of an animation or a TIFF of many pages the first frame counts."""

_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"), (b"\x89PNG", "PNG"), (b"GIF8", "GIF"), (b"BM", "BMP"),
    (b"II*\x00", "TIFF"), (b"MM\x00*", "TIFF"), (b"II+\x00", "TIFF"), (b"MM\x00+", "TIFF"),
)  # fmt: skip
_ORIENTATION = 0x0112

Image.init()  # registers the decoders once, before threads ask for them


def limit_pixels(max_pixels: int) -> None:
    """Make Pillow's own guard the same as ours, and an error: it also sees what hides inside a file."""
    Image.MAX_IMAGE_PIXELS = max_pixels
    warnings.simplefilter("error", Image.DecompressionBombWarning)


def decode_image(data: bytes, name: str, max_pixels: int) -> np.ndarray:
    """Decode an image.

    Args:
        data: an encoded image.
        name: of the item, for messages.
        max_pixels: of the decoded image, checked before it is decoded.

    Returns:
        uint8 (height, width, 3), RGB, upright by its EXIF orientation, transparency laid over white.

    Raises:
        ItemError: NotAnImage, TruncatedImage, BrokenImage, TooManyPixels or OutOfMemory.
    """
    try:
        with _open(data, name) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise TooManyPixels(f"{name} has {width} x {height} pixels, more than {max_pixels} (max_pixels)")
            image.load()
            return np.array(_to_rgb(_upright(image)))
    except ItemError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooManyPixels(f"{name} has more than {max_pixels} pixels (max_pixels): {error}") from error
    except MemoryError as error:
        raise OutOfMemory(f"{name}: there was not enough memory to decode it") from error
    except (OSError, EOFError, struct.error) as error:
        raise _unreadable(data, name, error) from error
    except Exception as error:
        raise BrokenImage(f"{name} cannot be decoded: {type(error).__name__}: {error}") from error


def _open(data: bytes, name: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        looks_like = _looks_like(data)
        if not data:
            raise NotAnImage(f"{name} is empty") from error
        if looks_like:
            message = (
                f"{name} begins like a {looks_like} image, but its header is cut off or damaged ({len(data)} bytes)"
            )
            raise TruncatedImage(message) from error
        raise NotAnImage(f"{name} is not an image of a supported format ({', '.join(FORMATS)})") from error


def _looks_like(data: bytes) -> str | None:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP"[: len(data[8:12])]:
        return "WEBP"
    return next((found for magic, found in _MAGIC if data.startswith(magic)), None)


def _unreadable(data: bytes, name: str, error: Exception) -> ItemError:
    """Pillow raises OSError for data that ends early as well as for data that makes no sense."""
    text = str(error)
    if isinstance(error, EOFError | struct.error) or "truncated" in text.lower() or "cut off" in text.lower():
        return TruncatedImage(f"{name} is truncated: it ends after {len(data)} bytes ({text or type(error).__name__})")
    return BrokenImage(f"{name} cannot be decoded: {text or type(error).__name__}")


def _upright(image: Image.Image) -> Image.Image:
    try:
        turned = _ORIENTATION in image.getexif()
    except Exception:  # noqa: BLE001 - a damaged EXIF block says nothing about the pixels
        return image
    return ImageOps.exif_transpose(image) if turned else image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_eight_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        white = Image.new("RGBA", colours.size, "white")
        return Image.alpha_composite(white, colours).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_eight_bits(levels: np.ndarray) -> np.ndarray:
    """Grey levels of 16 or 32 bits, or floats (0 to 1, or 0 to 255), to uint8. Pillow's own conversion clips them."""
    if levels.dtype.kind == "f":
        finite = np.nan_to_num(levels, nan=0.0, posinf=255.0, neginf=0.0)
        scaled = finite * 255.0 if finite.max(initial=0.0) <= 1.0 else finite
    else:
        highest = 65535.0 if levels.max(initial=0) <= 65535 else 2**31 - 1.0
        scaled = levels.astype(np.float32) * (255.0 / highest)
    rounded: np.ndarray = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return rounded
