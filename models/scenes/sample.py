"""Draw a scene from a seed: the same seed, split and condition give the same scene on every machine."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from .conditions import Condition, Split, condition, split
from .scene import Background, Scene, Thing
from .vocabulary import (
    BACKGROUNDS,
    COLOURS,
    GRID,
    HELD_OUT,
    HOLDERS,
    INNER_RADIUS,
    RADII,
    SHAPES,
    SIZES,
    STYLES,
    TEXTURES,
    TONES,
    WORDS,
)  # fmt: skip

T = TypeVar("T")
_COLOURS = tuple(COLOURS)
_TONES = tuple(TONES)
_HELD_OUT = tuple(sorted(HELD_OUT))
_JITTER = 0.05
_WORD_SHARE, _STYLE_SHARE, _INSIDE_SHARE = 0.12, 0.15, 0.12


class Dice:
    """Draws made of ``random.Random.random`` only, whose sequence Python keeps the same across versions."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed).random

    def pick(self, options: Sequence[T], weights: Sequence[float] | None = None) -> T:
        """One option, by weight."""
        u = self.random()
        if weights is None:
            return options[int(u * len(options))]
        u *= sum(weights)
        for option, weight in zip(options, weights, strict=True):
            u -= weight
            if u < 0:
                return option
        return options[-1]

    def between(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * self.random()

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """The options in random order."""
        out = list(options)
        for i in range(len(out) - 1, 0, -1):
            j = int(self.random() * (i + 1))
            out[i], out[j] = out[j], out[i]
        return out

    def chance(self, share: float) -> bool:
        """True with that probability."""
        return self.random() < share


def sample_scene(
    index: int, *, condition_name: str = "uniform", split_name: str = "train", things: tuple[int, int] = (1, 6)
) -> Scene:
    """The ``index``-th scene of a condition's split, with a number of things in the closed range ``things``."""
    where, how = split(split_name), condition(condition_name)
    low, high = things
    if not 1 <= low <= high <= 6:
        raise ValueError(f"things must be a range within 1-6, got {things}")
    return _sample(Dice(f"{how.name}:{where.seed(index)}"), how, where, low, high)


def _sample(dice: Dice, how: Condition, where: Split, low: int, high: int) -> Scene:
    word = dice.pick(WORDS) if dice.chance(_WORD_SHARE) else None
    style = dice.pick(STYLES) if dice.chance(_STYLE_SHARE) else None
    word_row = dice.pick((0, GRID - 1))
    cells = [(c, r) for r in range(GRID) for c in range(GRID) if word is None or r != word_row]
    free = dice.shuffled(cells)
    total = low + int(dice.random() * (high - low + 1))
    drawn: list[Thing] = []
    while len(drawn) < total:
        column, row = free.pop()
        thing = place(dice, draw_kind(dice, how), column, row)
        drawn.append(thing)
        if len(drawn) < total and dice.chance(_INSIDE_SHARE):
            drawn[-1] = holder = _as_holder(dice, how, thing, column, row)
            drawn.append(put_inside(dice, draw_kind(dice, how), holder, len(drawn) - 1))
    if where.held_out:
        _use_held_out(dice, drawn)
    background = Background(dice.pick(BACKGROUNDS), dice.pick(_TONES), int(dice.random() * (1 << 30)))
    return Scene(tuple(drawn), background, word, word_row, style)


def draw_kind(dice: Dice, how: Condition) -> tuple[str, str, str, str]:
    """(size, texture, colour, shape) of one thing; never a held-out colour x shape."""
    while True:
        shape = dice.pick(SHAPES, how.shape_weights)
        colour = dice.pick(_COLOURS, how.colour_weights)
        for tied, to, share in how.ties:
            if tied == shape and dice.chance(share):
                colour = to
        if (colour, shape) not in HELD_OUT:
            return dice.pick(SIZES), dice.pick(TEXTURES), colour, shape


def place(dice: Dice, kind: tuple[str, str, str, str], column: int, row: int) -> Thing:
    """A thing of that kind somewhere in a grid cell, wholly within it."""
    size, texture, colour, shape = kind
    radius = dice.between(*RADII[size])
    slack = min(_JITTER, 0.5 / GRID - radius)
    x = (column + 0.5) / GRID + dice.between(-slack, slack)
    y = (row + 0.5) / GRID + dice.between(-slack, slack)
    angle = round(dice.between(-6, 6), 1)
    return Thing(shape, colour, size, texture, round(x, 4), round(y, 4), round(radius, 4), angle)


def put_inside(dice: Dice, kind: tuple[str, str, str, str], holder: Thing, index: int) -> Thing:
    """A small thing in the middle of ``holder``, which is the scene's ``index``-th thing."""
    _, texture, colour, shape = kind
    angle = round(dice.between(-6, 6), 1)
    return Thing(shape, colour, "small", texture, holder.x, holder.y, INNER_RADIUS, angle, index)


def _as_holder(dice: Dice, how: Condition, thing: Thing, column: int, row: int) -> Thing:
    while True:
        shape = dice.pick(HOLDERS)
        if (thing.colour, shape) not in HELD_OUT:
            break
        thing = replace(thing, colour=dice.pick(_COLOURS, how.colour_weights))
    texture = thing.texture if shape == "ring" else "outlined"
    return place(dice, ("large", texture, thing.colour, shape), column, row)


def _use_held_out(dice: Dice, drawn: list[Thing]) -> None:
    """Give one thing a held-out combination; a thing that holds another keeps its shape."""
    colour, shape = dice.pick(_HELD_OUT)
    held = {thing.holder for thing in drawn}
    loose = [i for i in range(len(drawn)) if i not in held]
    index = dice.pick(loose)
    drawn[index] = replace(drawn[index], colour=colour, shape=shape)


def twin(scene: Scene, index: int) -> Scene:
    """The scene drawn anew: another background, other jitter, radii and angles; the same things in the same cells."""
    dice = Dice(f"twin:{index}")
    things: list[Thing] = []
    for thing in scene.things:
        if thing.holder >= 0:
            things.append(put_inside(dice, thing.kind, things[thing.holder], thing.holder))
        else:
            things.append(place(dice, thing.kind, int(thing.x * GRID), int(thing.y * GRID)))
    others = [(k, t) for k in BACKGROUNDS for t in _TONES if (k, t) != (scene.background.kind, scene.background.tone)]
    kind, tone = dice.pick(others)
    return replace(scene, things=tuple(things), background=Background(kind, tone, int(dice.random() * (1 << 30))))
