"""Batches for the captioner, the matcher and the detector: pixels, texts in chunks of like length, and the truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import IterableDataset

from .captions import caption, contrast
from .dataset import pixels, scene_classes
from .detector import place_boxes, place_classes
from .query import Query
from .sample import Dice, sample_scene
from .scene import Scene
from .tokens import PAD_ID, UNKNOWN_ID
from .told import Told, in_reading_order, mistell, tell

Batch = dict[str, Any]
_KINDS: Final = (("full", 5), ("long", 1), ("partial", 2), ("short", 2.5), ("vague", 0.5))


@dataclass(frozen=True, slots=True)
class BlipRecipe:
    """What a batch is made of.

    Captions to write: ``vague`` of them are vague and the others full; of the full ones ``asked`` follow the prompt
    token, and ``dropped`` of all have no image. Texts to match: ``texts`` for each scene, ``true`` of them left as they
    are, half of the others changed in one part and half in any; for a share ``pairs`` of the scenes also a true full
    caption and one that is wrong by one claim, to be told apart. Scenes have up to ``most`` things, and ``single``
    texts to match speak of one. Of scenes without a style and without a thing inside another a share ``usual`` is kept.
    Each rendered scene is used about ``reuse`` times.
    """

    batch: int = 128
    side: int = 96
    vague: float = 0.7
    asked: float = 0.7
    dropped: float = 0.12
    texts: int = 2
    true: float = 0.42
    pairs: float = 0.0
    usual: float = 1.0
    unknown: float = 0.003
    most: int = 6
    single: bool = False
    reuse: int = 4
    pool: int = 6000


Drawn = tuple[Scene, NDArray[np.uint8]]


@dataclass
class BlipBatches(IterableDataset[Batch]):
    """Endless batches of the uniform training split, beginning at scene ``first``; the same in every run."""

    recipe: BlipRecipe = field(default_factory=BlipRecipe)
    first: int = 0
    split_name: str = "train"

    def __iter__(self) -> Iterator[Batch]:
        recipe, index = self.recipe, self.first
        dice = Dice(f"blip:{index}")
        pool: list[Drawn] = []
        while True:
            drawn: list[Drawn] = []
            wanted = recipe.batch if len(pool) < recipe.batch else recipe.batch // recipe.reuse
            while len(drawn) < wanted:
                # Most scenes are as small as those of the targets.
                most = min(recipe.most, 4 if dice.chance(0.6) else 6)
                scene = sample_scene(index, split_name=self.split_name, things=(1, most))
                index += 1
                hard = scene.style is not None or any(thing.holder >= 0 for thing in scene)
                if hard or dice.chance(recipe.usual):
                    drawn.append((scene, pixels(scene, recipe.side, dice)))
            older = [pool[int(dice.random() * len(pool))] for _ in range(recipe.batch - wanted)]
            for one in drawn:
                if len(pool) < recipe.pool // recipe.reuse:
                    pool.append(one)
                else:
                    pool[int(dice.random() * len(pool))] = one
            yield self.batch([*drawn, *older], dice)

    def batch(self, drawn: Sequence[Drawn], dice: Dice) -> Batch:
        """Scenes and their pixels as tensors.

        ``pixels`` (B, side, side, 3) uint8, ``classes`` (B, 9, 7), ``boxes`` (B, 9, 2, 4), ``scene`` (B, 4); ``write``
        and ``match`` are lists of chunks, see ``_chunk``.
        """
        scenes = [scene for scene, _ in drawn]
        out: Batch = {
            "pixels": torch.from_numpy(np.stack([image for _, image in drawn])),
            "classes": torch.from_numpy(np.stack([place_classes(scene) for scene in scenes])),
            "boxes": torch.from_numpy(np.stack([place_boxes(scene) for scene in scenes])),
            "scene": torch.tensor([scene_classes(scene) for scene in scenes]),
        }
        if self.recipe.texts:
            written = [self._to_write(scene, row, dice) for row, scene in enumerate(scenes)]
            matched = [
                self._to_match(scene, row, dice) for row, scene in enumerate(scenes) for _ in range(self.recipe.texts)
            ]
            out["write"] = self._chunks(written, (self.recipe.vague,), dice)
            out["match"] = self._chunks(matched, (0.33, 0.66), dice)
            if self.recipe.pairs:
                out["match"].append(self._pairs(scenes, dice))
        return out

    def _to_write(self, scene: Scene, row: int, dice: Dice) -> tuple[Told, int, bool]:
        """(a caption to learn to write, its scene's row, whether the image is there)."""
        full = not dice.chance(self.recipe.vague)
        query = caption(scene, "full" if full else "vague", int(dice.random() * 2**40)).query
        asked = full and dice.chance(self.recipe.asked)
        told = tell(in_reading_order(query, scene), scene, full=asked)
        return told, row, not dice.chance(self.recipe.dropped)

    def _to_match(self, scene: Scene, row: int, dice: Dice) -> tuple[Told, int, bool]:
        """(a text to judge, its scene's row, whether it is true)."""
        recipe = self.recipe
        kind = dice.pick([name for name, _ in _KINDS], [weight for _, weight in _KINDS])
        if recipe.single:
            kind = dice.pick(("long", "partial"))
        query = caption(scene, kind, int(dice.random() * 2**40)).query
        if recipe.single:
            query = Query((dice.pick(query.claims),))
        if not dice.chance(recipe.true):
            query = mistell(query, scene, dice, None if dice.chance(0.5) else 0.35)
        told = tell(query, scene, punctuation=dice.chance(0.5))
        if dice.chance(recipe.unknown * len(told.ids)):
            told.ids[1 + int(dice.random() * (len(told.ids) - 2))] = UNKNOWN_ID
        return told, row, query.matches(scene)

    def _pairs(self, scenes: Sequence[Scene], dice: Dice) -> Batch:
        """A chunk of true captions, then of the same ones with one wrong claim; ``pairs`` is how many of each."""
        true, wrong = [], []
        for row, scene in enumerate(scenes[: round(len(scenes) * self.recipe.pairs)]):
            pair = contrast(scene, int(dice.random() * 2**40))
            if pair is not None:
                true.append((tell(pair[0].query, scene), row, True))
                wrong.append((tell(pair[1].query, scene), row, False))
        return {**_chunk([*true, *wrong]), "pairs": len(true)}

    @staticmethod
    def _chunks(texts: list[tuple[Told, int, bool]], cuts: tuple[float, ...], dice: Dice) -> list[Batch]:
        """Texts by length, cut where those shares of them are shorter: a chunk costs its longest."""
        texts = sorted(dice.shuffled(texts), key=lambda text: len(text[0].ids))
        edges = [round(len(texts) * cut) for cut in (0.0, *cuts, 1.0)]
        return [_chunk(texts[a:b]) for a, b in pairwise(edges)]


def _chunk(texts: Sequence[tuple[Told, int, bool]]) -> Batch:
    """``ids`` (n, T), ``rows`` (n,) of their scenes, ``flags`` (n,).

    Marked tokens as (text, position) with their targets: ``words`` (W, 2) and ``word_cells`` (W, 9), ``nouns`` (M, 2)
    and ``noun_cells`` (M, 9) with ``adjectives`` (M,), ``links`` (L, 3), ``truths`` (K, 2) and ``true`` (K,),
    ``spans`` (S, 2) and ``span_cells`` (S, 9).
    """
    ids = np.full((len(texts), max(len(told.ids) for told, _, _ in texts)), PAD_ID)
    names = (
        "words",
        "word_cells",
        "nouns",
        "noun_cells",
        "adjectives",
        "links",
        "truths",
        "true",
        "spans",
        "span_cells",
    )
    found: dict[str, list[Any]] = {name: [] for name in names}
    for n, (told, _, _) in enumerate(texts):
        ids[n, : len(told.ids)] = told.ids
        for at, cells in told.words:
            found["words"].append((n, at))
            found["word_cells"].append(cells)
        for at, cells in told.nouns:
            found["nouns"].append((n, at))
            found["noun_cells"].append(cells)
        found["adjectives"] += told.adjectives
        found["links"] += [(n, second, first) for second, first in told.links]
        for at, true in told.truths:
            found["truths"].append((n, at))
            found["true"].append(true)
        for first, last, cells in told.spans:
            for at in range(first, last + 1):
                found["spans"].append((n, at))
                found["span_cells"].append(cells)
    out: Batch = {
        "ids": torch.from_numpy(ids),
        "rows": torch.tensor([row for _, row, _ in texts]),
        "flags": torch.tensor([flag for _, _, flag in texts]),
    }
    for name in ("words", "nouns", "truths", "spans"):
        out[name] = torch.tensor(found[name], dtype=torch.int64).reshape(-1, 2)
    for name in ("word_cells", "noun_cells", "span_cells"):
        out[name] = torch.from_numpy(np.asarray(found[name], dtype=np.float32).reshape(-1, 9))
    out["adjectives"] = torch.tensor(found["adjectives"], dtype=torch.int64)
    out["links"] = torch.tensor(found["links"], dtype=torch.int64).reshape(-1, 3)
    out["true"] = torch.tensor(found["true"], dtype=torch.float32)
    return out
