"""Image files of every kind that people have, whole and broken, written to a folder by the tests.

Each good one comes with the pixels that it shows, made without the code under test; each bad one with the class of its
failure and words of the reason.
"""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tests.workers.mutations import data_folder, encoded, long, png_chunk, short, tiff

SIZE = (96, 72)
ROTATIONS = {
    1: lambda p: p, 2: lambda p: p[:, ::-1], 3: lambda p: p[::-1, ::-1], 4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2), 6: np.rot90, 7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: np.rot90(p, -1),
}  # fmt: skip
"""From the upright picture to the pixels that a file with this EXIF orientation holds."""


@dataclass(frozen=True)
class Good:
    """A file to be stored.

    Args:
        name: of the file; bytes where it is not UTF-8.
        shows: uint8 (height, width, 3), what a person sees.
        mistaken: what a reader without care would see.
        note: words of the remark that the user gets.
    """

    name: str | bytes
    data: bytes
    shows: np.ndarray
    mistaken: np.ndarray | None = None
    note: str | None = None


@dataclass(frozen=True)
class Bad:
    """A file to be refused."""

    name: str
    data: bytes
    error_class: str
    reason: str


def _opened(name: str) -> Image.Image:
    return Image.open(io.BytesIO((data_folder("skimage", "data") / name).read_bytes()))


def photo(number: int) -> np.ndarray:
    """A piece of a real photograph, another one for each number."""
    image = _opened("astronaut.png").convert("RGB").resize((300, 300))
    left, top = 60 + 7 * number, 10 + 11 * number
    return np.asarray(image.crop((left, top, left + SIZE[0], top + SIZE[1])))


def good(number: int) -> list[Good]:
    """Files to be stored; another `number` gives the same kinds with another content."""
    upright = photo(number)
    image = Image.fromarray(upright)
    return [*_turned(upright), *_coloured(upright, image), *_odd(upright, image)]


def _turned(upright: np.ndarray) -> Iterator[Good]:
    for value, turn in ROTATIONS.items():
        exif = Image.Exif()
        exif[0x0112] = value
        held = np.ascontiguousarray(turn(upright))
        mistaken = held if value > 1 else None
        kinds = {"jpg": ("JPEG", {"quality": 98, "subsampling": 0})}
        if value in (1, 6, 7):
            kinds |= {"png": ("PNG", {}), "webp": ("WEBP", {"lossless": True}), "tif": ("TIFF", {}),
                      "lzw.tif": ("TIFF", {"compression": "tiff_lzw"})}  # fmt: skip
        for suffix, (kind, options) in kinds.items():
            data = encoded(Image.fromarray(held), kind, exif=exif, **options)
            yield Good(f"turned-{value}.{suffix}", data, upright, mistaken)


def _coloured(upright: np.ndarray, image: Image.Image) -> Iterator[Good]:
    fine: dict[str, object] = {"quality": 98, "subsampling": 0}
    yield Good("progressive.jpg", encoded(image, "JPEG", progressive=True, **fine), upright)
    grey = np.asarray(image.convert("L"))
    yield Good("grey.jpg", encoded(image.convert("L"), "JPEG", quality=98), np.stack([grey] * 3, axis=2))
    inks = Image.merge("CMYK", [*(Image.fromarray(255 - upright[:, :, n]) for n in range(3)), Image.new("L", SIZE)])
    yield Good("adobe-cmyk.jpg", encoded(inks, "JPEG", quality=98), upright, 255 - upright)
    yield Good("plain-cmyk.jpg", _without_adobe(encoded(_inverted(inks), "JPEG", quality=98)), upright, 255 - upright)
    profile = _opened("rocket.jpg").info["icc_profile"]
    for suffix, kind, options in (("jpg", "JPEG", fine), ("png", "PNG", {})):
        yield Good(
            f"adobe-rgb.{suffix}",
            encoded(image, kind, icc_profile=profile, **options),
            from_adobe_rgb(upright),
            upright,
        )
    broken = encoded(image, "PNG", icc_profile=profile[:200] + b"\xff" * 300)
    yield Good("broken-profile.png", broken, upright, note="colour profile is damaged and was ignored")
    yield Good("sixteen-bit.png", encoded(Image.fromarray(grey.astype(np.uint16) * 257), "PNG"), np.stack([grey] * 3, axis=2),
               np.full_like(upright, 255))  # fmt: skip
    ink = np.where(grey > 110, 255, 0).astype(np.uint8)
    yield Good("one-bit.png", encoded(Image.fromarray(ink).convert("1"), "PNG"), np.stack([ink] * 3, axis=2))
    yield from _transparent(upright)


def _transparent(upright: np.ndarray) -> Iterator[Good]:
    few = Image.fromarray(upright).quantize(8)
    colours = np.asarray(few.convert("RGB"))
    index = np.asarray(few)
    commonest = int(np.bincount(index.ravel()).argmax())
    over_white = np.where((index == commonest)[:, :, None], np.uint8(255), colours)
    yield Good("palette-clear.png", encoded(few, "PNG", transparency=commonest), over_white, colours)
    fade = np.linspace(0, 255, SIZE[0]).round().astype(np.uint8)[None, :].repeat(SIZE[1], axis=0)
    part = fade[:, :, None] / 255.0
    faded = (upright * part + 255 * (1 - part)).round().astype(np.uint8)
    yield Good("fading.png", encoded(Image.fromarray(np.dstack([upright, fade])), "PNG"), faded, upright)


def _odd(upright: np.ndarray, image: Image.Image) -> Iterator[Good]:
    more = [Image.fromarray(255 - upright), Image.fromarray(upright[::-1].copy())]
    film: dict[str, object] = {"save_all": True, "append_images": more, "duration": 80}
    few = image.quantize(16)
    gif = encoded(few, "GIF", **(film | {"append_images": [frame.quantize(16) for frame in more]}))
    frame = "only the first frame of the animation was used"
    yield Good("animated.gif", gif, np.asarray(few.convert("RGB")), 255 - upright, note=frame)
    yield Good("animated.webp", encoded(image, "WEBP", lossless=True, **film), upright, 255 - upright, note=frame)
    yield Good("animated.png", encoded(image, "PNG", **film), upright, 255 - upright, note=frame)
    pages = encoded(image, "TIFF", compression="tiff_lzw", save_all=True, append_images=more * 20)
    yield Good("pages.tif", pages, upright, 255 - upright, note="only the first page was used")
    two = encoded(image, "MPO", quality=98, subsampling=0, save_all=True, append_images=more)
    yield Good("two.mpo", two, upright, 255 - upright, note="only the first of its pictures was used")
    for name, lines in (("1x1.png", upright[:1, :1]), ("1x20000.png", np.resize(upright[:, :1], (20000, 1, 3))),
                        ("20000x1.png", np.resize(upright[:1], (1, 20000, 3)))):  # fmt: skip
        yield Good(name, encoded(Image.fromarray(lines), "PNG"), lines)
    png = encoded(image, "PNG")
    for name in ("png-named.jpg", "no-suffix", "folder.jpg/inside.png", "new\nline.png", "x" * 240 + ".png", "ünï & #1?%25.png",
                 b"caf\xe9.png"):  # fmt: skip
        yield Good(name, png, upright)


def from_adobe_rgb(pixels: np.ndarray) -> np.ndarray:
    """Adobe RGB (1998) to sRGB by the formulas of both standards (IEC 61966-2-1), white D65."""
    linear = (pixels / 255.0) ** (563 / 256)
    to_xyz = np.array([[0.57667, 0.18556, 0.18823], [0.29734, 0.62736, 0.07529], [0.02703, 0.07069, 0.99134]])
    to_srgb = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])
    srgb = np.clip(linear @ (to_srgb @ to_xyz).T, 0, 1)
    curved = np.where(srgb <= 0.0031308, 12.92 * srgb, 1.055 * srgb ** (1 / 2.4) - 0.055)
    return (curved * 255).round().astype(np.uint8)


def _inverted(inks: Image.Image) -> Image.Image:
    return Image.merge("CMYK", [band.point(lambda level: 255 - level) for band in inks.split()])


def _without_adobe(jpeg: bytes) -> bytes:
    """Pillow writes CMYK inverted, as Adobe does, and says so in an APP14 segment."""
    at = jpeg.index(b"\xff\xee")
    return jpeg[:at] + jpeg[at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big") :]


def bad(number: int) -> list[Bad]:
    """Files to be refused; another `number` gives the same kinds with another content."""
    return [*_cut(number), *_bombs(number), *_others(number)]


def _cut(number: int) -> Iterator[Bad]:
    noise = np.random.default_rng(number).integers(0, 255, (72, 96, 3), dtype=np.uint8)
    image = Image.fromarray(photo(number) // 2 + noise // 2)
    for suffix, kind in (("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")):
        whole = encoded(image, kind)
        for part in (0.002, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.97):
            data = whole[: max(12 + number, int(len(whole) * part))]
            yield Bad(f"cut-{int(part * 1000):03}.{suffix}", data, "TruncatedImage", "truncated|cut off")


def _bombs(number: int) -> Iterator[Bad]:
    pixel = png_chunk(b"IHDR", b"\0\0\0\1\0\0\0\1\x08\0\0\0\0")
    row = png_chunk(b"IDAT", zlib.compress(b"\0" + bytes([number]))) + png_chunk(b"IEND", b"")
    packed = _packed(300 << 20)
    for name, chunk in (("zTXt", b"Comment\0\0"), ("iCCP", b"icc\0\0"), ("iTXt", b"Comment\0\1\0\0\0")):
        data = b"\x89PNG\r\n\x1a\n" + pixel + png_chunk(name.encode(), chunk + packed) + row
        yield Bad(f"bomb-{name}.png", data, "DecompressionBomb", "packed inside it is too large")
    many = png_chunk(b"zTXt", b"Comment\0\0" + _packed(1 << 20)) * 100
    yield Bad(
        "bomb-texts.png",
        b"\x89PNG\r\n\x1a\n" + pixel + many + row,
        "DecompressionBomb",
        "packed inside it is too large",
    )
    square = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", (20000).to_bytes(4, "big") * 2 + b"\x08\0\0\0\0")
    whole = (
        square
        + png_chunk(b"IDAT", _packed(401 << 20))
        + png_chunk(b"tEXt", b"n\0%d" % number)
        + png_chunk(b"IEND", b"")
    )
    yield Bad(
        "20000x20000.png", whole, "TooManyPixels", "has 400,000,000 pixels; SIGHTLINE_MAX_PIXELS admits 100,000,000$"
    )
    grey = [long(256, 9), long(257, 9 + number), short(258, 8), short(259, 8), short(262, 1), short(277, 1)]
    tile = tiff([*grey, long(322, 30000), long(323, 30000), long(325, len(packed)), (324, 4, 1, b"HERE")], packed)
    yield Bad("tile.tif", tile, "TooManyPixels", "tiles of 900,000,000 pixels; SIGHTLINE_MAX_PIXELS")
    tags = tiff([*grey, (273, 4, 10**6, b"\x08\0\0\0" * 10**6), long(279, 1)])
    yield Bad("strips.tif", tags, "BrokenImage", "1,000,000 values in tag 273")
    slow = encoded(Image.fromarray(photo(number)), "JPEG", progressive=True)
    last = slow[slow.rindex(b"\xff\xda") : -2]
    yield Bad("scans.jpg", slow[:-2] + last * 200 + b"\xff\xd9", "BrokenImage", "more than 100 scans")


def _packed(size: int) -> bytes:
    """Zeros, deflated to a thousandth: the same block again and again, and the checksum of so many zeros."""
    squeeze = zlib.compressobj(9)
    block = squeeze.compress(bytes(1 << 20)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    checksum = (size % 65521 << 16) + 1
    return block[:2] + block[2:] * (size >> 20) + b"\3\0" + checksum.to_bytes(4, "big")


def _others(number: int) -> Iterator[Bad]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr(f"{number}.bin", bytes(50 << 20))
    salt = b"%d\n" % number
    yield Bad("empty.jpg", b"", "EmptyFile", "has no bytes")
    for name, data, what in (
        ("words.jpg", b"these are words, not a picture " + salt, "text"),
        ("zipped.png", archive.getvalue(), "a zip archive"),
        ("phone.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100) + salt, "a HEIC image"),
        ("new.avif", b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + bytes(100) + salt, "an AVIF image"),
        ("film.mp4", b"\0\0\0\x18ftypisom\0\0\2\0isomavc1" + bytes(100) + salt, "an MP4 video"),
        ("drawing.svg", b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>' + salt, "an SVG drawing"),
        ("page.html", b"<!DOCTYPE html><title>404</title>" + salt, "a web page"),
        ("paper.pdf", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + salt, "a PDF document"),
        ("noise.jpg", bytes(range(250, 0, -1)) + salt, "no image of a known format"),
    ):
        yield Bad(name, data, "NotAnImage", f"is {what}.*; admitted are JPEG, PNG, WEBP, GIF, BMP, TIFF")
    broken = bytearray(encoded(Image.fromarray(photo(number)), "PNG"))
    broken[len(broken) // 2] ^= 0xFF
    yield Bad("flipped.png", bytes(broken), "BrokenImage", "cannot be decoded|broken")


def specials(folder: Path) -> dict[str, tuple[str, str]]:
    """Put entries that are no regular files into a folder; by name, the class of the failure and words of the reason."""
    os.mkfifo(folder / "pipe.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "dangling.png").symlink_to("nowhere.png")
    (folder / "linked-folder").symlink_to(folder / "folder.jpg")
    (folder / ".hidden.png").write_bytes(b"not seen")
    locked = folder / "locked.png"
    locked.write_bytes(encoded(Image.fromarray(photo(1) // 2), "PNG"))
    locked.chmod(0)
    found = {
        "pipe.png": ("NotARegularFile", "is a pipe"),
        "loop.png": ("NotARegularFile", "is a link that leads back to itself"),
        "dangling.png": ("NotFound", "is a link to a file that is not there"),
        "linked-folder": ("NotARegularFile", "is a folder"),
    }
    if not os.access(locked, os.R_OK):  # root reads whatever it likes
        found["locked.png"] = ("PermissionDenied", "may not read|cannot be read")
    return found
