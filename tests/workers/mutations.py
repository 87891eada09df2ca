"""Small files of every admitted format, and ways to damage them that a reader of headers must survive."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

Step = tuple[str, float, float, int]
"""Kind of damage, two places or amounts as parts of the file, and a number."""


def data_folder(package: str, *parts: str) -> Path:
    """A folder of an installed package, which need not be imported for it."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent.joinpath(*parts)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """A file's bytes."""
    file = io.BytesIO()
    more = options.get("append_images")
    if isinstance(more, list):
        options["append_images"] = [frame.copy() for frame in more]
    image.copy().save(
        file, kind, **options
    )  # a saved image keeps settings of its format, which the next one trips over
    return file.getvalue()


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def tiff(tags: Sequence[tuple[int, int, int, bytes]], content: bytes = b"") -> bytes:
    """A little-endian TIFF of one page. A value of None stands for the place of `content`."""
    extra, entries = b"", b""
    base = 8 + 2 + 12 * len(tags) + 4
    length = sum(len(value) for _, _, _, value in tags if len(value) > 4)
    for number, kind, count, value in sorted(tags):
        given = struct.pack("<L", base + length) if value == b"HERE" else value
        entries += struct.pack("<HHL", number, kind, count)
        if len(given) <= 4:
            entries += given.ljust(4, b"\0")
        else:
            entries += struct.pack("<L", base + len(extra))
            extra += given
    return b"II*\0" + struct.pack("<LH", 8, len(tags)) + entries + struct.pack("<L", 0) + extra + content


def short(number: int, *values: int) -> tuple[int, int, int, bytes]:
    return number, 3, len(values), struct.pack(f"<{len(values)}H", *values)


def long(number: int, *values: int) -> tuple[int, int, int, bytes]:
    return number, 4, len(values), struct.pack(f"<{len(values)}L", *values)


def tiled_tiff() -> bytes:
    """32 x 32 grey levels in deflated tiles of 16 x 16."""
    tile = zlib.compress(bytes(range(256)))
    base = 8 + 2 + 12 * 10 + 4 + 2 * 16
    tags = [
        long(256, 32), long(257, 32), short(258, 8), short(259, 8), short(262, 1), short(277, 1), long(322, 16),
        long(323, 16), long(324, *[base] * 4), long(325, *[len(tile)] * 4),
    ]  # fmt: skip
    return tiff(tags, tile)


def rle_bmp() -> bytes:
    """16 x 4 pixels in runs."""
    runs = b"\x10\x01\0\0" * 2 + b"\0\x04\1\2\3\4\x0c\x05\0\0" + b"\0\2\4\0\x0c\x07\0\1"
    header = struct.pack("<LllHHLLllLL", 40, 16, 4, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return b"BM" + struct.pack("<LHHL", 1078 + len(runs), 0, 0, 1078) + header + bytes(range(256)) * 4 + runs


@cache
def seeds() -> list[bytes]:
    """Files to damage: each format in several kinds, and small real ones of scikit-image."""
    rocket = (data_folder("skimage", "data") / "rocket.jpg").read_bytes()
    image = Image.open(io.BytesIO(rocket)).convert("RGB").resize((40, 30))
    clear = image.copy()
    clear.putalpha(Image.linear_gradient("L").resize(image.size))
    frames = [image, image.rotate(90), image.rotate(180)]
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a rocket"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    grey16 = Image.fromarray(np.linspace(0, 65535, 1200, dtype=np.uint16).reshape(30, 40))
    animated: dict[str, object] = {"save_all": True, "append_images": frames[1:], "duration": 100}
    made = [
        encoded(image, "JPEG"), encoded(image, "JPEG", progressive=True, exif=exif, icc_profile=profile),
        encoded(image.convert("CMYK"), "JPEG"), encoded(image.convert("L"), "JPEG", optimize=True),
        encoded(image, "MPO", save_all=True, append_images=frames[1:]),
        encoded(image, "PNG", icc_profile=profile, exif=exif), encoded(clear, "PNG"), encoded(grey16, "PNG"),
        encoded(image.convert("P"), "PNG", transparency=3), encoded(image.convert("1"), "PNG"),
        encoded(image, "PNG", **animated),
        encoded(image, "WEBP"), encoded(clear, "WEBP", lossless=True, exif=exif), encoded(image, "WEBP", **animated),
        encoded(image.convert("P"), "GIF"), encoded(image.convert("P"), "GIF", **animated),
        encoded(image, "BMP"), encoded(image.convert("P"), "BMP"), encoded(image.convert("1"), "BMP"), rle_bmp(),
        encoded(image, "TIFF", exif=exif), encoded(grey16, "TIFF"), encoded(image.convert("F"), "TIFF"),
        encoded(image.convert("1"), "TIFF", compression="group4"), encoded(image.convert("CMYK"), "TIFF"),
        *(encoded(image, "TIFF", compression=how) for how in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")),
        encoded(image, "TIFF", **animated), tiled_tiff(),
    ]  # fmt: skip
    names = ("multipage.tif", "multipage_rgb.tif", "no_time_for_that_tiny.gif", "microaneurysms.png", "phantom.png")
    return made + [(data_folder("skimage", "data") / name).read_bytes() for name in names]


def _flip(data: bytes, at: int, _size: int, value: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << value % 8]) + data[at + 1 :]


def _cut(data: bytes, at: int, _size: int, _value: int) -> bytes:
    return data[:at]


def _delete(data: bytes, at: int, size: int, _value: int) -> bytes:
    return data[:at] + data[at + size :]


def _repeat(data: bytes, at: int, size: int, value: int) -> bytes:
    return data[:at] + data[at : at + size] * (2 + value % 8) + data[at + size :]


def _number(data: bytes, at: int, _size: int, value: int) -> bytes:
    """A field of two or four bytes, in either order, biased to the header."""
    at = at if value % 3 else at % 64
    limits = (0, 1, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, value)
    field = struct.pack(("<", ">")[value % 2] + "L", limits[value // 6 % len(limits)])
    return data[:at] + field[: (2, 4)[value // 2 % 2]] + data[at + (2, 4)[value // 2 % 2] :]


def _splice(data: bytes, at: int, size: int, value: int) -> bytes:
    other = seeds()[value % len(seeds())]
    start = value // 64 % len(other)
    return data[:at] + other[start : start + size] + data[at + size * (value % 2) :]


def _part(data: bytes, at: int, size: int, value: int) -> bytes:
    """Damage inside a chunk of a PNG, whose checksum is made good; of a JPEG, the length of a segment."""
    if data.startswith(b"\x89PNG") and len(data) > 20:
        start = 8
        while start + 12 <= len(data):
            length = int.from_bytes(data[start : start + 4], "big")
            end = start + 12 + length
            if end > at or end + 12 > len(data):
                break
            start = end
        name, content = data[start + 4 : start + 8], data[start + 8 : start + 8 + length]
        if content:
            content = (_flip, _cut, _number, _repeat)[value % 4](content, at % len(content), size, value // 4)
        return data[:start] + png_chunk(name, content) + data[start + 12 + length :]
    marker = data.find(b"\xff", at)
    if 0 <= marker < len(data) - 4:
        return data[: marker + 2] + struct.pack(">H", value % 65536) + data[marker + 4 :]
    return _number(data, at, size, value)


DAMAGE: dict[str, Callable[[bytes, int, int, int], bytes]] = {
    "flip": _flip, "cut": _cut, "delete": _delete, "repeat": _repeat, "number": _number, "splice": _splice,
    "part": _part,
}  # fmt: skip


def damage(data: bytes, steps: Sequence[Step]) -> bytes:
    """The file after each step."""
    for kind, place, amount, value in steps:
        if data:
            at = min(int(place * len(data)), len(data) - 1)
            data = DAMAGE[kind](data, at, 1 + int(amount**3 * len(data)), value)[:200_000]
    return data


def random_damage(number: int) -> bytes:
    """One damaged file for each number."""
    dice = random.Random(number)
    steps = [
        (dice.choice(list(DAMAGE)), dice.random(), dice.random(), dice.getrandbits(32))
        for _ in range(dice.randint(1, 5))
    ]
    return damage(dice.choice(seeds()), steps)
