"""A scene: things on a background, in relative coordinates, with every truth known exactly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from .geometry import extent
from .vocabulary import HELD_OUT

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Thing:
    """One object. ``x``, ``y`` (centre) and ``radius`` are shares of the image's side; ``angle`` is in degrees.

    ``holder`` is the index of the thing that this one lies in, or -1.
    """

    shape: str
    colour: str
    size: str
    texture: str
    x: float
    y: float
    radius: float
    angle: float = 0.0
    holder: int = -1

    @property
    def box(self) -> Box:
        """The tight box (left, top, right, bottom), in shares of the image's side."""
        left, top, right, bottom = extent(self.shape, self.angle)
        r = self.radius
        return self.x + left * r, self.y + top * r, self.x + right * r, self.y + bottom * r

    @property
    def kind(self) -> tuple[str, str, str, str]:
        """(size, texture, colour, shape): what a full caption says of the thing."""
        return self.size, self.texture, self.colour, self.shape

    @property
    def held_out(self) -> bool:
        """Whether its colour x shape is one that training never sees."""
        return (self.colour, self.shape) in HELD_OUT

    def fits(
        self,
        *,
        colour: str | None = None,
        shape: str | None = None,
        size: str | None = None,
        texture: str | None = None,
    ) -> bool:
        """Whether every attribute that is given is the thing's own; ``None`` leaves an attribute open."""
        return (
            (shape is None or shape == self.shape)
            and (colour is None or colour == self.colour)
            and (size is None or size == self.size)
            and (texture is None or texture == self.texture)
        )


@dataclass(frozen=True, slots=True)
class Background:
    """What lies behind the things: ``kind`` of BACKGROUNDS in a ``tone`` of TONES; ``seed`` fixes its noise."""

    kind: str = "plain"
    tone: str = "sand"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Scene:
    """1-6 things, a background, maybe a painted word (in grid row ``word_row``) and maybe a style."""

    things: tuple[Thing, ...]
    background: Background = Background()
    word: str | None = None
    word_row: int = 2
    style: str | None = None

    def __len__(self) -> int:
        return len(self.things)

    def __iter__(self) -> Iterator[Thing]:
        return iter(self.things)

    def find(self, **attributes: str | None) -> list[Thing]:
        """The things that fit the attributes (colour, shape, size, texture)."""
        return [thing for thing in self.things if thing.fits(**attributes)]

    def count(self, **attributes: str | None) -> int:
        """How many things fit the attributes; ``count()`` counts all."""
        return len(self.find(**attributes))

    def has(self, **attributes: str | None) -> bool:
        """Whether some thing fits the attributes, e.g. ``scene.has(colour="red", shape="circle")``."""
        return any(thing.fits(**attributes) for thing in self.things)

    @property
    def held_out(self) -> bool:
        """Whether some thing has a held-out colour x shape."""
        return any(thing.held_out for thing in self.things)

    def to_metadata(self) -> dict[str, Any]:
        """The scene as a dict of JSON types, for an item's metadata; ``from_metadata`` reads it back."""
        return {
            "things": [
                {
                    "shape": t.shape,
                    "colour": t.colour,
                    "size": t.size,
                    "texture": t.texture,
                    "x": round(t.x, 4),
                    "y": round(t.y, 4),
                    "radius": round(t.radius, 4),
                    "angle": round(t.angle, 2),
                    "holder": t.holder,
                }
                for t in self.things
            ],
            "background": {
                "kind": self.background.kind,
                "tone": self.background.tone,
                "seed": self.background.seed,
            },
            "word": self.word,
            "word_row": self.word_row,
            "style": self.style,
        }

    @classmethod
    def from_metadata(cls, data: dict[str, Any]) -> Scene:
        """Read what ``to_metadata`` wrote. Raises ``KeyError`` or ``TypeError`` where a field is missing or unknown."""
        return cls(
            things=tuple(Thing(**thing) for thing in data["things"]),
            background=Background(**data["background"]),
            word=data["word"],
            word_row=data["word_row"],
            style=data["style"],
        )

    def with_things(self, things: tuple[Thing, ...]) -> Scene:
        """The same scene with other things."""
        return replace(self, things=things)
