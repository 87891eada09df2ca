"""Bytes to RGB: every admitted format, and each way in which a file can be bad."""

from __future__ import annotations

import io
import struct
import threading
import time
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.encoder import Encoder, load_encoder
from tests.workers.mutations import data_folder
from workers import images
from workers.errors import BrokenImage, DecodeTimeout, ItemError, NotAnImage, TooManyPixels, TruncatedImage
from workers.images import limit_pixels
from workers.room import Room

LIMIT = 1_000_000
RED = (200, 30, 40)


def decode_image(data: bytes, name: str, max_pixels: int) -> np.ndarray:
    return images.decode_image(data, name, max_pixels).pixels


@pytest.fixture(autouse=True)
def _limit() -> None:
    limit_pixels(LIMIT)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture() -> Image.Image:
    """Red with a blue left upper corner, 32 wide, 24 high."""
    image = Image.new("RGB", (32, 24), RED)
    image.paste((20, 40, 220), (0, 0, 8, 8))
    return image


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_each_format_is_decoded(kind: str) -> None:
    pixels = decode_image(encoded(picture(), kind), "a", LIMIT)
    assert (pixels.shape, pixels.dtype) == ((24, 32, 3), np.uint8)
    assert np.abs(pixels[20, 28].astype(int) - RED).max() < 25
    assert pixels[2, 2, 2] > 150


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr"])
def test_each_colour_mode_becomes_rgb(mode: str) -> None:
    kind = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    assert decode_image(encoded(picture().convert(mode), kind), "a", LIMIT).shape == (24, 32, 3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_over_white(mode: str) -> None:
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    data = encoded(clear.convert("P" if mode == "P" else mode), "PNG", **({"transparency": 0} if mode == "P" else {}))
    assert (decode_image(data, "a", LIMIT) == 255).all()


def test_sixteen_bits_keep_their_range() -> None:
    levels = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    pixels = decode_image(encoded(Image.fromarray(levels), "PNG"), "a", LIMIT)
    assert pixels[0, 0, 0] == 0
    assert pixels[-1, -1, 0] == 255
    assert abs(int(pixels[8, 0, 0]) - 128) <= 1


def test_orientation_is_honoured() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = decode_image(encoded(picture(), "JPEG", exif=exif), "a", LIMIT)
    assert pixels.shape == (32, 24, 3)
    assert pixels[2, -3, 2] > 150  # the corner went to the right


def test_the_first_frame_of_an_animation_counts() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "WEBP"):
        pixels = decode_image(encoded(frames[0], kind, save_all=True, append_images=frames[1:]), "a", LIMIT)
        assert pixels[4, 4, 0] > 200, kind


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("part", [0.9, 0.5, 0.1])
def test_a_truncated_file_says_so(kind: str, part: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    with pytest.raises((TruncatedImage, BrokenImage), match=r"^cat\.jpg ") as caught:
        decode_image(data[: int(len(data) * part)], "cat.jpg", LIMIT)
    assert "/" not in str(caught.value)


@pytest.mark.parametrize("data", [b"hello, this is text", b"%PDF-1.7\n", b"\0" * 100, b"<svg></svg>"])
def test_what_is_not_an_image_is_named(data: bytes) -> None:
    with pytest.raises(NotAnImage, match=r"cat\.jpg"):
        decode_image(data, "cat.jpg", LIMIT)


def test_formats_that_are_not_admitted_are_refused() -> None:
    for kind in ("PPM", "ICO", "TGA"):
        with pytest.raises(NotAnImage):
            decode_image(encoded(picture(), kind), "a", LIMIT)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims many pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(1001, 1000), (1500, 1000), (60000, 60000)])
def test_too_many_pixels_are_refused_before_decoding(size: tuple[int, int]) -> None:
    with pytest.raises(TooManyPixels, match=r"^a has [\d,]+ pixels; SIGHTLINE_MAX_PIXELS admits 1,000,000$"):
        decode_image(bomb(*size), "a", LIMIT)


def test_random_damage_never_escapes() -> None:
    rng = np.random.default_rng(1)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        whole = encoded(picture(), kind)
        for _ in range(30):
            data = bytearray(whole)
            for position in rng.integers(0, len(data), 6):
                data[position] = rng.integers(0, 256)
            try:
                pixels = decode_image(bytes(data), "a", LIMIT)
            except ItemError:
                continue
            assert pixels.dtype == np.uint8
            assert pixels.shape[2] == 3


def test_colours_are_converted_after_the_preparation_or_before_it() -> None:
    """A telephone's profile costs little where the preparation gives an image, and is not lost where it does not."""
    rocket = (data_folder("skimage", "data") / "rocket.jpg").read_bytes()
    decoded = images.decode_image(rocket, "rocket.jpg", LIMIT)
    assert decoded.conversion is not None
    whole = decoded.pixels.astype(int)
    assert np.abs(whole - decoded.raw).mean() > 2
    assert (decoded.prepared_by(lambda pixels: pixels) == whole).all()
    half = decoded.prepared_by(
        lambda pixels: np.asarray(Image.fromarray(pixels).resize((320, 213), Image.Resampling.BICUBIC))
    )
    before = np.asarray(Image.fromarray(decoded.pixels).resize((320, 213), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(half - before).mean() < 0.5
    assert (decoded.prepared_by(lambda pixels: pixels.astype(np.float32)) == whole).all()


def test_decoding_has_a_limit_of_computing_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "DECODE_SECONDS", 0.2)
    comments = b"\xff\xd8" + b"\xff\xfe\0\2" * 5_000_000
    began = time.thread_time()
    with pytest.raises(DecodeTimeout, match=r"^a was given up after 0\.2 s"):
        decode_image(comments, "a", LIMIT)
    assert time.thread_time() - began < 2


def test_large_images_wait_for_room_and_small_ones_do_not() -> None:
    room = Room(100)
    held, free = threading.Event(), threading.Event()
    order: list[str] = []

    def hold(name: str, pixels: int, until: threading.Event) -> None:
        with room.hold(pixels):
            order.append(name)
            held.set()
            until.wait(10)

    first = threading.Thread(target=hold, args=("first", 70, free))
    first.start()
    assert held.wait(10)
    second = threading.Thread(target=hold, args=("second", 40, free))
    second.start()
    with room.hold(25):
        order.append("small")
    with room.hold(30):
        order.append("fits")
    assert second.is_alive()
    free.set()
    first.join(10)
    second.join(10)
    assert order == ["first", "small", "fits", "second"]


PHOTO_PIXELS = 2_000_000
PHOTOS = ["astronaut.png", "chelsea.png", "coffee.png", "gravel.png", "retina.jpg", "rocket.jpg"]


def photo(name: str, size: tuple[int, int], **options: Any) -> bytes:
    with Image.open(data_folder("skimage", "data") / name) as image:
        return encoded(image.convert("RGB").resize(size, Image.Resampling.BICUBIC), "JPEG", quality=88, **options)


@pytest.fixture(scope="module")
def bundled() -> Encoder:
    return load_encoder("bundled", device="cpu")


@pytest.mark.parametrize("size", [(1600, 1200), (1000, 1504)])
@pytest.mark.parametrize("name", PHOTOS)
def test_a_scaled_decoding_gives_the_vector_of_the_whole_one(
    bundled: Encoder, name: str, size: tuple[int, int]
) -> None:
    limit_pixels(PHOTO_PIXELS)
    data = photo(name, size)
    whole = images.decode_image(data, name, PHOTO_PIXELS)
    scaled = images.decode_image(data, name, PHOTO_PIXELS, decode_size=bundled.decode_size)
    assert scaled.raw.size < whole.raw.size / 15  # a quarter or an eighth of each side
    seen = [one.prepared_by(bundled.prepare_image) for one in (whole, scaled)]
    assert np.abs(seen[0].astype(int) - seen[1]).mean() < 1.2  # of 255
    one, other = bundled.encode_images(seen)
    assert one @ other / np.linalg.norm(one) / np.linalg.norm(other) > 0.999


def test_a_scaled_image_is_upright_and_of_the_same_aspect(bundled: Encoder) -> None:
    limit_pixels(PHOTO_PIXELS)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = images.decode_image(
        photo("coffee.png", (1600, 1200), exif=exif), "a", PHOTO_PIXELS, decode_size=bundled.decode_size
    )
    assert turned.raw.shape == (200, 150, 3)
    assert bundled.decode_size(1601, 1200) == (1601, 1200)  # would be of another aspect
    assert bundled.decode_size(288, 288) == (144, 144)
    assert bundled.decode_size(284, 284) == (284, 284)  # less than twice what the model sees
    png = encoded(picture().resize((1600, 1200)), "PNG")
    assert images.decode_image(png, "a", PHOTO_PIXELS, decode_size=bundled.decode_size).raw.shape == (1200, 1600, 3)
