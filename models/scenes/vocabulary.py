"""The words of the scene world: shapes, colours, sizes, textures, backgrounds, painted words, styles."""

from __future__ import annotations

from typing import Final

RGB = tuple[int, int, int]

SHAPES: Final = ("circle", "square", "triangle", "star", "heart", "cross", "diamond", "ring", "moon", "arrow")

COLOURS: Final[dict[str, RGB]] = {
    "red": (214, 30, 38),
    "orange": (250, 130, 10),
    "yellow": (252, 222, 20),
    "green": (28, 140, 48),
    "teal": (0, 150, 150),
    "cyan": (60, 222, 250),
    "blue": (28, 66, 204),
    "purple": (128, 40, 158),
    "pink": (255, 110, 180),
    "brown": (120, 70, 30),
    "black": (16, 16, 18),
    "white": (255, 255, 255),
}

SIZES: Final = ("small", "large")
TEXTURES: Final = ("plain", "striped", "dotted", "outlined")
BACKGROUNDS: Final = ("plain", "gradient", "noisy")

TONES: Final[dict[str, RGB]] = {
    "sand": (206, 192, 164),
    "sky": (172, 192, 214),
    "mint": (176, 204, 182),
    "lilac": (196, 184, 210),
}

WORDS: Final = ("open", "stop", "sale", "exit", "milk", "cafe", "park", "taxi", "home", "fish")
STYLES: Final = ("photo", "sketch", "mosaic", "inverted")

GRID: Final = 3
"""Things lie on a jittered grid of GRID x GRID cells."""

RADII: Final[dict[str, tuple[float, float]]] = {"small": (0.080, 0.095), "large": (0.138, 0.156)}
"""Range of the radius of a thing, as a share of the image's side."""

INNER_RADIUS: Final = 0.066
"""Radius of a small thing that lies inside another."""

HOLDERS: Final = ("ring", "circle", "square")
"""Shapes that can hold another thing: a large ring of any texture, or a large outlined circle or square."""

HELD_OUT: Final[frozenset[tuple[str, str]]] = frozenset(
    {
        ("red", "moon"),
        ("orange", "cross"),
        ("yellow", "heart"),
        ("green", "star"),
        ("teal", "arrow"),
        ("cyan", "triangle"),
        ("blue", "ring"),
        ("purple", "square"),
        ("pink", "diamond"),
        ("brown", "circle"),
        ("black", "heart"),
        ("white", "triangle"),
    }
)
"""Colour x shape combinations that no training, validation or ordinary test scene contains."""
