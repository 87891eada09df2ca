"""Batches of fresh scenes for training: pixels, captions as token ids, and the truth as integer codes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer
from torch.utils.data import IterableDataset

from .captions import Caption, caption
from .edit import EditError, random_edit
from .render import render
from .sample import Dice, sample_scene
from .scene import Scene
from .tokens import CONTEXT, PAD_ID, UNKNOWN_ID, build_tokenizer
from .vocabulary import BACKGROUNDS, COLOURS, GRID, SHAPES, SIZES, STYLES, TEXTURES, WORDS

_CODES: Final = {
    "shape": {w: i for i, w in enumerate(SHAPES)},
    "colour": {w: i for i, w in enumerate(COLOURS)},
    "size": {w: i for i, w in enumerate(SIZES)},
    "texture": {w: i for i, w in enumerate(TEXTURES)},
}
ATTRIBUTES: Final = tuple(_CODES)
CELL_CLASSES: Final = {"shape": 11, "colour": 13, "size": 3, "texture": 5, "inner shape": 11, "inner colour": 13}
"""Classes of a grid cell; 0 means that nothing lies there."""
MOST: Final = 6


def codes(scene: Scene) -> NDArray[np.int64]:
    """(shape, colour, size, texture) of each thing as integers, shape (6, 4), filled up with -1."""
    out = np.full((MOST, 4), -1)
    for i, thing in enumerate(scene.things):
        out[i] = [_CODES[name][getattr(thing, name)] for name in ATTRIBUTES]
    return out


def cell_classes(scene: Scene) -> NDArray[np.int64]:
    """The classes of CELL_CLASSES for each grid cell, row by row, shape (9, 6)."""
    out = np.zeros((GRID * GRID, len(CELL_CLASSES)), dtype=np.int64)
    for thing, code in zip(scene.things, codes(scene), strict=False):
        cell = int(thing.y * GRID) * GRID + int(thing.x * GRID)
        if thing.holder >= 0:
            out[cell, 4:] = code[:2] + 1
        else:
            out[cell, :4] = code + 1
    return out


def scene_classes(scene: Scene) -> list[int]:
    """[things, background, word (0 for none), style (0 for none)] as integers."""
    word = 0 if scene.word is None else WORDS.index(scene.word) + 1
    style = 0 if scene.style is None else STYLES.index(scene.style) + 1
    return [len(scene) - 1, BACKGROUNDS.index(scene.background.kind), word, style]


def pixels(scene: Scene, side: int, dice: Dice) -> NDArray[np.uint8]:
    """The scene at ``side`` pixels, rendered there or larger and scaled down, shape (side, side, 3)."""
    u = dice.random()
    size = side if u < 0.75 else 2 * side if u < 0.9 else 224
    image = render(scene, size)
    if size != side:
        image = image.resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(image)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a batch is made of.

    ``edited`` is the share of scenes that differ by one edit from their neighbour, ``full`` the share of full
    captions, ``unknown`` the share of words that become <unk>. Each rendered scene is used about ``reuse`` times,
    each time with another caption: drawing it costs as much as a forward pass.
    """

    batch: int = 256
    side: int = 72
    edited: float = 0.0
    text: bool = True
    full: float = 0.35
    unknown: float = 0.01
    reuse: int = 3
    pool: int = 6000


Drawn = tuple[Scene, NDArray[np.uint8]]


@dataclass
class Batches(IterableDataset[dict[str, torch.Tensor]]):
    """Endless batches of a condition's training split, beginning at scene ``first``; the same in every run.

    A batch is new scenes, and older ones from a pool in memory.
    """

    recipe: Recipe
    first: int = 0
    condition_name: str = "uniform"
    split_name: str = "train"

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, built where the batches are made."""
        return build_tokenizer()

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        recipe, index = self.recipe, self.first
        dice = Dice(f"batches:{index}")
        pool: list[list[Drawn]] = []
        while True:
            fresh: list[list[Drawn]] = []
            wanted = recipe.batch // recipe.reuse if pool else recipe.batch
            while sum(map(len, fresh)) < wanted:
                fresh.append(self._draw(index, dice))
                index += 1
            older = dice.shuffled(pool[: recipe.batch]) if len(pool) < recipe.batch else self._older(pool, dice)
            drawn = [one for group in (*fresh, *older) for one in group][: recipe.batch]
            for group in fresh:
                if len(pool) < recipe.pool // recipe.reuse:
                    pool.append(group)
                else:
                    pool[int(dice.random() * len(pool))] = group
            if len(drawn) == recipe.batch:
                yield self.batch(drawn, dice)

    def _older(self, pool: list[list[Drawn]], dice: Dice) -> list[list[Drawn]]:
        places = {int(dice.random() * len(pool)) for _ in range(self.recipe.batch)}
        return [pool[place] for place in sorted(places)]

    def _draw(self, index: int, dice: Dice) -> list[Drawn]:
        """A new scene, maybe with a second one that differs by one edit."""
        scenes = [sample_scene(index, condition_name=self.condition_name, split_name=self.split_name)]
        if dice.chance(self.recipe.edited):
            with contextlib.suppress(EditError):
                scenes.append(random_edit(scenes[0], index)[1])
        return [(scene, pixels(scene, self.recipe.side, dice)) for scene in scenes]

    def batch(self, drawn: list[Drawn], dice: Dice) -> dict[str, torch.Tensor]:
        """Scenes and their pixels as tensors.

        ``pixels`` (B, side, side, 3) uint8, ``things`` (B, 6, 4), ``cells`` (B, 9, 6), ``scene`` (B, 4); with text
        also ``ids`` (B, T), ``complete`` (B,) whether the caption names everything, and ``also`` (B, B): caption
        i is true of scene j != i, so the pair is no negative.
        """
        scenes = [scene for scene, _ in drawn]
        out: dict[str, Any] = {
            "pixels": np.stack([image for _, image in drawn]),
            "things": np.stack([codes(scene) for scene in scenes]),
            "cells": np.stack([cell_classes(scene) for scene in scenes]),
            "scene": np.asarray([scene_classes(scene) for scene in scenes]),
        }
        if self.recipe.text:
            captions = [self._caption(scene, int(dice.random() * 2**40), dice) for scene in scenes]
            out["ids"] = self._ids([c.text for c in captions], dice)
            out["complete"] = np.asarray([c.kind in ("full", "long") for c in captions])
            out["also"] = also_true(captions, scenes, out["things"])
        return {name: torch.from_numpy(value) for name, value in out.items()}

    def _caption(self, scene: Scene, seed: int, dice: Dice) -> Caption:
        if dice.chance(self.recipe.full):
            return caption(scene, "full", seed)
        return caption(scene, dice.pick(("long", "partial", "short", "vague"), (2, 3, 4, 0.5)), seed)

    def _ids(self, texts: list[str], dice: Dice) -> NDArray[np.int64]:
        """Token ids padded to the longest text, a few words replaced by <unk>, shape (B, T)."""
        rows = [encoding.ids[:CONTEXT] for encoding in self.tokenizer.encode_batch(texts)]
        out = np.full((len(rows), max(map(len, rows))), PAD_ID)
        for i, row in enumerate(rows):
            out[i, : len(row)] = row
            if dice.chance(self.recipe.unknown * len(row)):
                out[i, 1 + int(dice.random() * (len(row) - 2))] = UNKNOWN_ID
        return out


def also_true(captions: list[Caption], scenes: list[Scene], things: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(B, B): caption i is also true of scene j != i. Codes rule out nearly all pairs, the query decides the rest."""
    size = len(scenes)
    most = max(len(c.query.claims) for c in captions)
    wanted = np.full((size, max(most, 1), 4), -1)
    for i, one in enumerate(captions):
        for k, claim in enumerate(one.query.claims):
            for a, name in enumerate(ATTRIBUTES):
                value = getattr(claim, name)
                wanted[i, k, a] = -1 if value is None else _CODES[name][value]
    present = np.ones((size, size), dtype=bool)
    for k in range(wanted.shape[1]):
        fits = np.ones((size, size, things.shape[1]), dtype=bool)
        for a in range(4):
            want = wanted[:, k, a][:, None, None]
            fits &= (want < 0) | (want == things[None, :, :, a])
        present &= fits.any(axis=2)
    np.fill_diagonal(present, False)
    out = np.zeros((size, size), dtype=bool)
    for i, j in zip(*np.nonzero(present), strict=True):
        out[i, j] = captions[i].query.matches(scenes[j])
    return out
