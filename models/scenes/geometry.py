"""The outlines of the shapes, as polygons in a unit disc (y grows downwards)."""

from __future__ import annotations

import math
from functools import lru_cache

Point = tuple[float, float]
RING_HOLE = 0.62
"""Radius of a ring's hole, as a share of the ring's radius."""


def _disc(n: int = 40, r: float = 1.0) -> list[Point]:
    return [(r * math.cos(2 * math.pi * i / n), r * math.sin(2 * math.pi * i / n)) for i in range(n)]


def _star() -> list[Point]:
    points = []
    for i in range(10):
        r = 1.0 if i % 2 == 0 else 0.42
        a = -math.pi / 2 + math.pi * i / 5
        points.append((r * math.cos(a), r * math.sin(a)))
    return points


def _heart() -> list[Point]:
    points = []
    for i in range(48):
        t = 2 * math.pi * i / 48
        x = 16 * math.sin(t) ** 3
        y = -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t))
        points.append((x / 17, (y - 2.5) / 17))
    return points


def _moon() -> list[Point]:
    """A disc less a disc moved to the right: the horns point right."""
    horn = math.acos(0.30)
    outer = [horn + (2 * math.pi - 2 * horn) * i / 32 for i in range(33)]
    points = [(math.cos(a) + 0.1, math.sin(a)) for a in outer]
    end_x, end_y = points[-1]
    centre = 0.62
    inner_r = math.hypot(end_x - centre, end_y)
    start = math.atan2(end_y, end_x - centre) % (2 * math.pi)
    for i in range(1, 24):
        a = start - 2 * (start - math.pi) * i / 24
        points.append((centre + inner_r * math.cos(a), inner_r * math.sin(a)))
    return points


_CROSS: list[Point] = [
    (-0.32, -0.95), (0.32, -0.95), (0.32, -0.32), (0.95, -0.32), (0.95, 0.32), (0.32, 0.32),
    (0.32, 0.95), (-0.32, 0.95), (-0.32, 0.32), (-0.95, 0.32), (-0.95, -0.32), (-0.32, -0.32),
]  # fmt: skip
_ARROW: list[Point] = [
    (-0.95, -0.28), (0.05, -0.28), (0.05, -0.8), (1.0, 0.0), (0.05, 0.8), (0.05, 0.28), (-0.95, 0.28),
]  # fmt: skip
_OUTLINES: dict[str, list[Point]] = {
    "circle": _disc(r=0.92),
    "square": [(-0.78, -0.78), (0.78, -0.78), (0.78, 0.78), (-0.78, 0.78)],
    "triangle": [(0.0, -0.95), (0.92, 0.75), (-0.92, 0.75)],
    "star": _star(),
    "heart": _heart(),
    "cross": _CROSS,
    "diamond": [(0.0, -1.0), (0.66, 0.0), (0.0, 1.0), (-0.66, 0.0)],
    "ring": _disc(),
    "moon": _moon(),
    "arrow": _ARROW,
}


def outline(shape: str, angle: float = 0.0) -> list[Point]:
    """The outer polygon of a shape turned clockwise by ``angle`` degrees. Raises ``KeyError`` for an unknown shape."""
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return [(c * x - s * y, s * x + c * y) for x, y in _OUTLINES[shape]]


@lru_cache(maxsize=4096)
def extent(shape: str, angle: float = 0.0) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of a turned shape, in units of its radius."""
    points = outline(shape, angle)
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return min(xs), min(ys), max(xs), max(ys)
