"""A look into a TIFF before it is opened: a few bytes of it can claim gigabytes of tags and tiles.

Layout after the TIFF 6.0 specification, section 2, and BigTIFF's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from workers.errors import BrokenImage, TooManyPixels

MAX_VALUES = 2**17
"""Numbers in one tag. Of an image of 100 million pixels, tiles of 64 x 64 need 25,000."""

_BYTES = (1, 2, 6, 7)  # kinds of tags whose values are bytes: texts, profiles, thumbnails
_NUMBERS = {3: ("H", 2), 4: ("L", 4), 16: ("Q", 8)}
_TILE_WIDTH, _TILE_LENGTH = 322, 323


def check_tiff(data: bytes, name: str, max_pixels: int) -> None:
    """Refuse a TIFF whose first page would take unbounded memory; mere damage is left to the decoder.

    Raises:
        BrokenImage: more values in a tag than any image needs.
        TooManyPixels: tiles larger than `max_pixels`.
    """
    tile = {_TILE_WIDTH: 0, _TILE_LENGTH: 0}
    for tag, kind, count, value in _tags(data):
        if count > MAX_VALUES and kind not in _BYTES:
            raise BrokenImage(f"{name} is a TIFF with {count:,} values in tag {tag}; {MAX_VALUES:,} are admitted")
        if tag in tile:
            tile[tag] = value
    pixels = tile[_TILE_WIDTH] * tile[_TILE_LENGTH]
    if pixels > max_pixels:
        raise TooManyPixels(
            f"{name} is a TIFF with tiles of {pixels:,} pixels; SIGHTLINE_MAX_PIXELS admits {max_pixels:,}"
        )


def _tags(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Number, kind, count and, of a single number, value of the first page's tags, as far as they lie in the file."""
    order = "<" if data[:2] == b"II" else ">"
    big = 43 in data[2:4]
    word, size, first = ("Q", 8, 8) if big else ("L", 4, 4)
    try:
        (at,) = struct.unpack_from(order + word, data, first)
        (entries,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
        at += 8 if big else 2
        for position in range(at, at + min(entries, 65535) * (4 + 2 * size), 4 + 2 * size):
            tag, kind, count = struct.unpack_from(f"{order}HH{word}", data, position)
            letter, length = _NUMBERS.get(kind, ("", 0))
            value = 0
            if count == 1 and 0 < length <= size:
                (value,) = struct.unpack_from(order + letter, data, position + 4 + size)
            yield tag, kind, count, value
    except (struct.error, OverflowError):
        return
