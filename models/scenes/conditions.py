"""Named conditions of the world (what its scenes are like) and the disjoint splits of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .vocabulary import COLOURS, SHAPES


@dataclass(frozen=True, slots=True)
class Condition:
    """How scenes are drawn. Weights follow the order of SHAPES and COLOURS; ``None`` means equal weights.

    ``ties`` maps a shape to (colour, probability): with that probability the shape has that colour.
    ``vague`` says that the condition's captions omit what they can.
    """

    name: str
    shape_weights: tuple[float, ...] | None = None
    colour_weights: tuple[float, ...] | None = None
    ties: tuple[tuple[str, str, float], ...] = ()
    vague: bool = False


def _zipf(n: int) -> tuple[float, ...]:
    return tuple(1 / (rank + 1) for rank in range(n))


CONDITIONS: Final[dict[str, Condition]] = {
    c.name: c
    for c in (
        Condition("uniform"),
        Condition("zipf", _zipf(len(SHAPES)), _zipf(len(COLOURS))),
        Condition("associated", ties=(("star", "yellow", 0.95), ("heart", "red", 0.95), ("moon", "white", 0.95))),
        Condition("vague", vague=True),
    )
}


@dataclass(frozen=True, slots=True)
class Split:
    """A range of scene seeds. Scenes of the split ``unseen`` each hold a held-out combination, all others none."""

    name: str
    first: int
    size: int
    held_out: bool = False

    def seed(self, index: int) -> int:
        """The scene seed of the ``index``-th scene. Raises ``IndexError`` outside the split."""
        if not 0 <= index < self.size:
            raise IndexError(f"split {self.name!r} has {self.size} scenes, asked for {index}")
        return self.first + index


SPLITS: Final[dict[str, Split]] = {
    s.name: s
    for s in (
        Split("train", 0, 1 << 40),
        Split("validation", 1 << 40, 1 << 30),
        Split("test", (1 << 40) + (1 << 30), 1 << 30),
        Split("unseen", (1 << 40) + (2 << 30), 1 << 30, held_out=True),
    )
}


def condition(name: str) -> Condition:
    """The condition of that name. Raises ``ValueError`` for an unknown one."""
    try:
        return CONDITIONS[name]
    except KeyError:
        raise ValueError(f"unknown condition {name!r}; known are {', '.join(CONDITIONS)}") from None


def split(name: str) -> Split:
    """The split of that name. Raises ``ValueError`` for an unknown one."""
    try:
        return SPLITS[name]
    except KeyError:
        raise ValueError(f"unknown split {name!r}; known are {', '.join(SPLITS)}") from None
