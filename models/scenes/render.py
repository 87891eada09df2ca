"""Draw a scene with Pillow: every thing on a supersampled tile of its own, then pasted through its alpha."""

from __future__ import annotations

import io
import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from .geometry import RING_HOLE, outline
from .scene import Background, Scene, Thing
from .vocabulary import COLOURS, GRID, RGB, TONES

SUPERSAMPLE = 4
_NOISE_CELLS = 18
_MOSAIC_CELLS = 36


def render(scene: Scene, size: int = 224) -> Image.Image:
    """The scene as an RGB image of ``size`` x ``size`` pixels; the same scene and size give the same pixels."""
    image = _background(scene.background, size)
    for thing in scene.things:
        _paint(image, thing, size, sketch=scene.style == "sketch")
    if scene.word is not None:
        _write(image, scene.word, scene.word_row, size)
    return _stylise(image, scene, size)


def render_array(scene: Scene, size: int) -> NDArray[np.uint8]:
    """The scene as uint8 pixels, shape (size, size, 3)."""
    return np.asarray(render(scene, size))


def png_bytes(scene: Scene, size: int = 224) -> bytes:
    """The rendered scene as the bytes of a PNG file."""
    buffer = io.BytesIO()
    render(scene, size).save(buffer, "PNG")
    return buffer.getvalue()


def masks(scene: Scene, size: int = 224) -> NDArray[np.bool_]:
    """Which pixels each thing covers, shape (things, size, size); holes of rings and outlined things are not."""
    out = np.zeros((len(scene), size, size), dtype=bool)
    for index, thing in enumerate(scene.things):
        alpha, left, top = _alpha(thing, size)
        canvas = Image.new("L", (size, size))
        canvas.paste(alpha, (left, top))
        out[index] = np.asarray(canvas) >= 128
    return out


def _alpha(thing: Thing, size: int) -> tuple[Image.Image, int, int]:
    """(coverage of the thing on its tile, left, top of the tile in the image's pixels)."""
    silhouette, left, top = _silhouette(thing, size)
    return silhouette.reduce(SUPERSAMPLE), left, top


def _silhouette(thing: Thing, size: int) -> tuple[Image.Image, int, int]:
    r = thing.radius * size
    cx, cy = thing.x * size, thing.y * size
    left, top = math.floor(cx - r) - 1, math.floor(cy - r) - 1
    side = math.ceil(2 * r) + 3
    k = SUPERSAMPLE
    tile = Image.new("L", (side * k, side * k))
    draw = ImageDraw.Draw(tile)
    x0, y0, rk = (cx - left) * k, (cy - top) * k, r * k
    points = [(x0 + rk * x, y0 + rk * y) for x, y in outline(thing.shape, thing.angle)]
    draw.polygon(points, fill=255)
    hole = RING_HOLE
    if thing.texture == "outlined":
        width = max(rk * 0.2, 1.1 * k)
        if thing.shape == "ring":
            width = max(rk * 0.11, 0.9 * k)
            inner = hole + width / rk
            draw.polygon([(x0 + rk * x * (1 - width / rk), y0 + rk * y * (1 - width / rk))
                          for x, y in outline("ring")], fill=0)  # fmt: skip
            draw.polygon([(x0 + rk * x * inner, y0 + rk * y * inner) for x, y in outline("ring")], fill=255)
        else:
            inside = Image.new("L", tile.size)
            pen = ImageDraw.Draw(inside)
            pen.polygon(points, fill=255)
            pen.line([*points, points[0], points[1]], fill=0, width=round(2 * width), joint="curve")
            tile = ImageChops.subtract(tile, inside)
            draw = ImageDraw.Draw(tile)
    if thing.shape == "ring":
        draw.polygon([(x0 + rk * x * hole, y0 + rk * y * hole) for x, y in outline("ring")], fill=0)
    return tile, left, top


def _paint(image: Image.Image, thing: Thing, size: int, *, sketch: bool) -> None:
    silhouette, left, top = _silhouette(thing, size)
    colour = COLOURS[thing.colour]
    second = _second(colour)
    if sketch:
        _paint_edge(image, silhouette, left, top)
        colour, second = _mix(colour, (255, 255, 255), 0.35), _mix(second, (255, 255, 255), 0.35)
    alpha = silhouette.reduce(SUPERSAMPLE)
    if thing.texture in ("striped", "dotted"):
        r = thing.radius * size * SUPERSAMPLE
        x0 = (thing.x * size - left) * SUPERSAMPLE
        y0 = (thing.y * size - top) * SUPERSAMPLE
        pattern = _stripes(silhouette.size, y0, r) if thing.texture == "striped" else _dots(silhouette.size, x0, y0, r)
        image.paste(colour, (left, top), alpha)
        image.paste(second, (left, top), ImageChops.multiply(silhouette, pattern).reduce(SUPERSAMPLE))
    else:
        image.paste(colour, (left, top), alpha)


def _paint_edge(image: Image.Image, silhouette: Image.Image, left: int, top: int) -> None:
    grown = silhouette.filter(ImageFilter.MaxFilter(SUPERSAMPLE + 1 | 1)).reduce(SUPERSAMPLE)
    image.paste((40, 40, 40), (left, top), grown)


def _second(colour: RGB) -> RGB:
    """The colour of stripes and dots: near white on dark colours, near black on light ones."""
    light = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    return (52, 52, 58) if light > 165 else (240, 240, 236)


def _mix(a: RGB, b: RGB, share: float) -> RGB:
    r, g, bl = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return r, g, bl


def _stripes(size: tuple[int, int], y0: float, r: float) -> Image.Image:
    """Horizontal stripes, five to a diameter."""
    tile = Image.new("L", size)
    draw = ImageDraw.Draw(tile)
    step = r * 0.5
    for i in range(-2, 3):
        y = y0 + i * step
        draw.rectangle((0, y - step * 0.24, size[0], y + step * 0.24), fill=255)
    return tile


def _dots(size: tuple[int, int], x0: float, y0: float, r: float) -> Image.Image:
    """Round dots on a slanted grid."""
    tile = Image.new("L", size)
    draw = ImageDraw.Draw(tile)
    step, dot = r * 0.52, r * 0.17
    for i in range(-3, 4):
        for j in range(-2, 3):
            x, y = x0 + (i + 0.5 * (j % 2)) * step, y0 + j * step
            draw.ellipse((x - dot, y - dot, x + dot, y + dot), fill=255)
    return tile


def _background(background: Background, size: int) -> Image.Image:
    tone = TONES[background.tone]
    if background.kind == "plain":
        return Image.new("RGB", (size, size), tone)
    if background.kind == "gradient":
        return _gradient(background.tone, background.seed % 4, size).copy()
    rng = np.random.default_rng(background.seed)
    noise = rng.integers(-30, 31, (_NOISE_CELLS, _NOISE_CELLS, 1))
    cells = (np.asarray(tone) + noise).clip(0, 255).astype(np.uint8)
    return Image.fromarray(cells).resize((size, size), Image.Resampling.BICUBIC)


@lru_cache(maxsize=256)
def _gradient(tone: str, direction: int, size: int) -> Image.Image:
    ramp = np.linspace(-38, 38, size)
    plane = (ramp[None, :], ramp[:, None], -ramp[None, :], -ramp[:, None])[direction]
    plane = np.broadcast_to(plane, (size, size))[..., None]
    return Image.fromarray((np.asarray(TONES[tone]) + plane).clip(0, 255).astype(np.uint8))


def _write(image: Image.Image, word: str, row: int, size: int) -> None:
    mask = _lettering(word, size)
    x = (size - mask.width) // 2
    y = round((row + 0.5) * size / GRID) - mask.height // 2
    image.paste((24, 24, 40), (x, y), mask)


@lru_cache(maxsize=256)
def _lettering(word: str, size: int) -> Image.Image:
    """The word as an alpha tile, about three quarters of the image wide."""
    font = ImageFont.load_default(size=64)
    left, top, right, bottom = font.getbbox(word)
    tile = Image.new("L", (math.ceil(right - left) + 2, math.ceil(bottom - top) + 2))
    ImageDraw.Draw(tile).text((1 - left, 1 - top), word, fill=255, font=font, stroke_width=1)
    height = round(size * 0.22)
    width = min(round(tile.width * height / tile.height), round(size * 0.8))
    return tile.resize((width, height), Image.Resampling.BOX if height < tile.height else Image.Resampling.BICUBIC)


def _stylise(image: Image.Image, scene: Scene, size: int) -> Image.Image:
    if scene.style == "inverted":
        return ImageChops.invert(image)
    if scene.style == "mosaic":
        return image.resize((_MOSAIC_CELLS, _MOSAIC_CELLS), Image.Resampling.BOX).resize(
            (size, size), Image.Resampling.NEAREST)  # fmt: skip
    if scene.style == "photo":
        soft = image.filter(ImageFilter.GaussianBlur(size / 160))
        grain = np.random.default_rng(scene.background.seed + 1).normal(0, 9, (size, size, 1))
        return Image.fromarray((np.asarray(soft) * _vignette(size) + grain).clip(0, 255).astype(np.uint8))
    return image


@lru_cache(maxsize=16)
def _vignette(size: int) -> NDArray[np.float64]:
    axis = np.linspace(-1, 1, size)
    plane: NDArray[np.float64] = 1 - 0.14 * (axis[None, :] ** 2 + axis[:, None] ** 2)
    return plane[..., None]
