"""A look into a TIFF before it is opened: a few bytes of it can claim gigabytes of tags, tiles and strips.

Layout after the TIFF 6.0 specification, section 2, and BigTIFF's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from workers.errors import BrokenImage, TooManyPixels

MAX_VALUES = 2**17
"""Numbers in one tag. Of an image of 100 million pixels, rows of 64 x 64 tiles need 25,000."""

_NUMBERS = {3: "u2", 4: "u4", 8: "i2", 9: "i4", 11: "f4", 12: "f8", 13: "u4", 16: "u8", 17: "i8", 18: "u8"}
_SIZES = {5: 8, 10: 8}
_TILE_WIDTH, _TILE_LENGTH, _STRIP_BYTES, _TILE_BYTES = 322, 323, 279, 325


@dataclass(frozen=True, slots=True)
class _Tag:
    number: int
    kind: int
    count: int
    values: bytes

    def numbers(self, order: str) -> np.ndarray:
        kind = _NUMBERS.get(self.kind)
        if kind is None:
            return np.zeros(0)
        kind = order + kind
        usable = len(self.values) // np.dtype(kind).itemsize
        return np.frombuffer(self.values, kind, min(self.count, usable))


def check_tiff(data: bytes, name: str, max_pixels: int) -> None:
    """Refuse a TIFF whose first page would take unbounded memory or time; mere damage is left to the decoder.

    Raises:
        BrokenImage: more values in a tag than any image needs, or strips that overlap many times.
        TooManyPixels: tiles larger than `max_pixels`.
    """
    order = "<" if data[:2] == b"II" else ">"
    tile = {_TILE_WIDTH: 0, _TILE_LENGTH: 0}
    for tag in _tags(data, order):
        if tag.kind in _NUMBERS or tag.kind in _SIZES:
            if tag.count > MAX_VALUES:
                raise BrokenImage(
                    f"{name} is a TIFF with {tag.count:,} values in tag {tag.number}; {MAX_VALUES:,} are admitted"
                )
            numbers = tag.numbers(order)
            if tag.number in tile and numbers.size:
                tile[tag.number] = int(numbers[0])
            if tag.number in (_STRIP_BYTES, _TILE_BYTES) and float(numbers.sum(dtype=np.float64)) > 4 * len(data):
                raise BrokenImage(f"{name} is a TIFF whose strips claim many times the {len(data):,} bytes of the file")
    pixels = tile[_TILE_WIDTH] * tile[_TILE_LENGTH]
    if pixels > max_pixels:
        raise TooManyPixels(
            f"{name} is a TIFF with tiles of {pixels:,} pixels; SIGHTLINE_MAX_PIXELS admits {max_pixels:,}"
        )


def _tags(data: bytes, order: str) -> Iterator[_Tag]:
    """The tags of the first page, as far as they lie in the file."""
    big = len(data) > 4 and 43 in data[2:4]
    entry, number, first = (20, "Q", 8) if big else (12, "L", 4)
    try:
        (at,) = struct.unpack_from(order + number, data, first)
        (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
        at += 8 if big else 2
        for index in range(min(count, 65535)):
            position = at + index * entry
            tag, kind, values = struct.unpack_from(f"{order}HH{number}", data, position)
            inline = position + entry - (8 if big else 4)
            size = values * (np.dtype(_NUMBERS[kind]).itemsize if kind in _NUMBERS else _SIZES.get(kind, 1))
            where = inline if size <= (8 if big else 4) else struct.unpack_from(order + number, data, inline)[0]
            yield _Tag(tag, kind, values, data[where : where + min(size, MAX_VALUES * 8)])
    except struct.error:
        return
