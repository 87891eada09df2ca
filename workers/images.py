"""Bytes to RGB within bounds of pixels and time: the one way into Pillow, whose decoders meet what strangers send."""

from __future__ import annotations

import io
import re
import struct
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from workers.colours import Conversion, convert, to_rgb, upright
from workers.errors import (
    BrokenImage,
    DecodeTimeout,
    DecompressionBomb,
    EmptyFile,
    ItemError,
    NotAnImage,
    OutOfMemory,
    TooManyPixels,
    TruncatedImage,
)
from workers.formats import FORMATS, admitted_format, describe, ends_early
from workers.tiff import check_tiff

DECODE_SECONDS = 30.0
"""CPU time of one decoding: a hundred million pixels take about 3 s."""
MAX_SCANS = 100
"""Passes over a JPEG. A progressive photograph has about 10; a hostile file has thousands, of a few bytes each."""

DecodeSize = Callable[[int, int], tuple[int, int]]
"""From a width and height to those that are needed."""

_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_PILLOW_SIZE = re.compile(r"\((\d+) pixels\)")
_REDUCED = 254  # tag NewSubfileType, bit 0: a smaller version of another image of the file

Image.init()  # registers the decoders once, before threads ask for them
ImageFile.LOAD_TRUNCATED_IMAGES = False  # half a picture is a failure, not a grey surface


@dataclass(frozen=True, slots=True)
class Decoded:
    """An image as a model sees it, but for its colour profile.

    Args:
        raw: uint8 (height, width, 3), RGB, read-only.
        conversion: of these colours to sRGB; None if they are sRGB.
        notes: what of the file the pixels do not show, in words for the user.
    """

    raw: np.ndarray
    conversion: Conversion | None = None
    notes: tuple[str, ...] = ()

    @property
    def pixels(self) -> np.ndarray:
        """uint8 (height, width, 3), sRGB."""
        return self.raw if self.conversion is None else convert(self.raw, self.conversion)

    def prepared_by(self, prepare: Callable[[np.ndarray], Any]) -> Any:
        """What a model's preparation makes of the image.

        Converting the 12 million pixels of a telephone takes three times as long as decoding them, so it is done on
        what is left of them, if that still is an image.
        """
        if self.conversion is None:
            return prepare(self.raw)
        ready = prepare(self.raw)
        if isinstance(ready, np.ndarray) and ready.dtype == np.uint8 and ready.ndim == 3 and ready.shape[2] == 3:
            return convert(ready, self.conversion)
        return prepare(self.pixels)


def limit_pixels(max_pixels: int) -> None:
    """Make Pillow's own guard the same as ours, and an error: it also sees what hides inside a file.

    Its warnings about odd metadata stay away from the log: they name no file.
    """
    Image.MAX_IMAGE_PIXELS = max_pixels
    warnings.filterwarnings("ignore", module=r"PIL\.")
    warnings.simplefilter("error", Image.DecompressionBombWarning)


def decode_image(
    data: bytes, name: str, max_pixels: int, make_room: Callable[[int], object] = lambda _: None,
    decode_size: DecodeSize | None = None,
) -> Decoded:  # fmt: skip
    """Decode an image.

    Args:
        data: an encoded image.
        name: of the item, for messages.
        max_pixels: of the decoded image, checked before it is decoded.
        make_room: called with the number of pixels before memory is taken for them.
        decode_size: a JPEG is decoded to an eighth, a quarter or half of its size where that is not below what this
            says of its width and height; None decodes it whole.

    Returns:
        The image: upright by EXIF orientation, transparency laid over white, the first frame of an animation; with the
        conversion from the file's colour profile to sRGB.

    Raises:
        ItemError: EmptyFile, NotAnImage, TruncatedImage, BrokenImage, TooManyPixels, DecompressionBomb, DecodeTimeout
            or OutOfMemory; the message names the item and says why.
    """
    try:
        return _decode(data, name, max_pixels, make_room, decode_size)
    except ItemError:
        raise
    except Exception as error:
        raise _explained(error, data, name, max_pixels) from error


def _decode(
    data: bytes, name: str, max_pixels: int, make_room: Callable[[int], object], decode_size: DecodeSize | None
) -> Decoded:
    if admitted_format(data) == "TIFF":
        check_tiff(data, name, max_pixels)
    with _open(data, name) as image:
        pixels = image.width * image.height
        if pixels > max_pixels:
            raise _too_many(name, pixels, max_pixels)
        if image.format in ("JPEG", "MPO") and _scans(data) > MAX_SCANS:
            raise BrokenImage(f"{name} is a JPEG of more than {MAX_SCANS} scans: made to take for ever")
        make_room(pixels)
        if decode_size is not None:
            image.draft(None, decode_size(*image.size))
        image.load()
        notes: list[str] = []
        rgb, conversion = to_rgb(image, notes)
        return Decoded(np.asarray(upright(rgb, image)), conversion, (*_unseen(image), *notes))


class _OutOfTime(Exception):
    """The computing time of one decoding is spent."""


class _Source(io.BytesIO):
    """Bytes that are read in the given CPU time of the thread. Waiting, or being stopped, costs nothing."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._end = time.thread_time() + DECODE_SECONDS

    def read(self, size: int | None = -1, /) -> bytes:
        if time.thread_time() > self._end:
            raise _OutOfTime
        return super().read(size)


def _open(data: bytes, name: str) -> Image.Image:
    if not data:
        raise EmptyFile(f"{name} has no bytes")
    try:
        return Image.open(_Source(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        found = admitted_format(data)
        if found and ends_early(data):
            raise TruncatedImage(f"{name} is cut off in the header of a {found}: it has {len(data):,} bytes") from error
        if found:
            raise BrokenImage(
                f"{name} begins like a {found}, but its header is damaged or of a kind that is not supported"
            ) from error
        raise NotAnImage(
            f"{name} is {describe(data) or 'no image of a known format'}; admitted are {', '.join(FORMATS)}"
        ) from error


def _scans(data: bytes) -> int:
    """Passes over the picture in a JPEG, counted up to `MAX_SCANS` and one (ITU T.81, annex B)."""
    scans, position = 0, 2
    while scans <= MAX_SCANS and (found := _MARKER.search(data, position)):
        position = found.end()
        marker = data[position - 1]
        if marker == 0xD9:  # end of image; what follows is another file
            break
        if marker not in (0x01, 0xD8):
            position += max(2, int.from_bytes(data[position : position + 2], "big"))
            scans += marker == 0xDA
    return scans


def _unseen(image: Image.Image) -> list[str]:
    """What else is in the file. Asked after the pixels are safe: the answer may be damaged."""
    try:
        if image.format == "TIFF":
            tags = getattr(image, "tag_v2", {})
            found = ["only the first page was used"] if getattr(tags, "next", 0) else []
            return [
                *found,
                *(["only a reduced preview was used: it comes first in the file"] * (tags.get(_REDUCED, 0) & 1)),
            ]
        if image.format == "MPO":
            return ["only the first of its pictures was used"]
        return ["only the first frame of the animation was used"] if getattr(image, "is_animated", False) else []
    except Exception:  # noqa: BLE001 - the first frame is whole; what follows it cannot be read
        return []


def _too_many(name: str, pixels: int | None, max_pixels: int) -> TooManyPixels:
    found = f"{pixels:,} pixels" if pixels else "too many pixels"
    return TooManyPixels(f"{name} has {found}; SIGHTLINE_MAX_PIXELS admits {max_pixels:,}")


def _explained(error: Exception, data: bytes, name: str, max_pixels: int) -> ItemError:
    """What Pillow raised, as a failure of the item."""
    text = str(error) or type(error).__name__
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        found = _PILLOW_SIZE.search(text)
        return _too_many(name, int(found[1]) if found else None, max_pixels)
    if isinstance(error, _OutOfTime):
        return DecodeTimeout(f"{name} was given up after {DECODE_SECONDS:g} s of computing")
    if isinstance(error, MemoryError):
        return OutOfMemory(f"{name}: there was not enough memory to decode it")
    if "MAX_TEXT_CHUNK" in text or "Too much memory used in text chunks" in text:
        return DecompressionBomb(f"{name}: a text or profile packed inside it is too large when unpacked")
    # Pillow raises OSError for data that ends early as well as for data that makes no sense.
    if isinstance(error, EOFError | struct.error) or "truncated" in text.lower() or ends_early(data):
        return TruncatedImage(f"{name} is truncated: it ends after {len(data):,} bytes ({text})")
    return BrokenImage(f"{name} cannot be decoded: {text}")
