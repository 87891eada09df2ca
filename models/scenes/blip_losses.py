"""The training losses of captioner, matcher and detector; the heads here only help, and are thrown away afterwards."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blip import NOUN_LAYER, PART_LAYER, WORD_LAYER, Blip
from .losses import SCENE_CLASSES
from .pointing import Attention, nats, or_class_token
from .tokens import PAD_ID

Batch = dict[str, Any]
LOOKING: Final = 2
"""Attention heads, of four, that the truth teaches where to look; the others are free."""


class BlipHeads(nn.Module):
    """Linear heads, thrown away afterwards.

    Of words: which cells have their attribute, which hold a claim's thing, whether a part is true (matcher), which
    cells the next words speak of (captioner). Of patches: which cell they are; of the class token: the scene's count,
    background, word and style.
    """

    def __init__(self, text_width: int, vision_width: int) -> None:
        super().__init__()
        self.noun = nn.Linear(text_width, 9)
        self.next = nn.Linear(text_width, 9)
        self.clause = nn.Linear(text_width, 1)
        self.place = nn.Linear(vision_width, 9)
        self.scene = nn.Linear(vision_width, sum(SCENE_CLASSES))
        self.word = nn.Linear(text_width, 9)

    def place_loss(self, tokens: Tensor) -> Tensor:
        """Cross entropy of which cell each patch token (B, 9, width) is, in nats."""
        wanted = torch.arange(9, device=tokens.device).repeat(len(tokens))
        return F.cross_entropy(self.place(tokens).flatten(0, 1), wanted)

    def scene_loss(self, image: Tensor, scene: Tensor) -> Tensor:
        """Cross entropy of count, background, word and style, summed; class tokens (B, width), scene (B, 4)."""
        found = self.scene(image).split(list(SCENE_CLASSES), dim=-1)
        return torch.stack([F.cross_entropy(part, scene[:, k]) for k, part in enumerate(found)]).sum()


class Mean:
    """Named sums and what to divide them by."""

    def __init__(self) -> None:
        self._sums: dict[str, list[Tensor]] = defaultdict(list)
        self._counts: dict[str, int] = defaultdict(int)

    def add(self, name: str, total: Tensor, count: int) -> None:
        """Add to a sum."""
        self._sums[name].append(total)
        self._counts[name] += count

    def all(self) -> dict[str, Tensor]:
        """Each mean by its name; 0 where nothing was counted."""
        return {name: torch.stack(values).sum() / max(self._counts[name], 1) for name, values in self._sums.items()}


def image_losses(model: Blip, heads: BlipHeads, batch: Batch, images: Tensor) -> dict[str, Tensor]:
    """What the vision tower and the detector learn from: cells, boxes, places, and the scene as a whole."""
    named, placed = model.detector.loss(images[:, 1:], batch["classes"], batch["boxes"])
    place, scene = heads.place_loss(images[:, 1:]), heads.scene_loss(images[:, 0], batch["scene"])
    return {"cells": named, "boxes": placed, "place": place, "scene": scene}


def write_losses(
    model: Blip, heads: BlipHeads, attention: Attention, chunks: list[Batch], images: Tensor
) -> dict[str, Tensor]:
    """``write``: mean cross entropy of a token after the prompt, in nats; ``next``: of the cells to speak of next;
    ``look next``: of attention to those cells."""
    mean = Mean()
    for chunk in chunks:
        ids = chunk["ids"]
        seen = images[chunk["rows"]] * chunk["flags"][:, None, None]
        logits, hidden = model.tell(ids[:, :-1], seen)
        wanted = ids[:, 1:].masked_fill((ids[:, 1:] == PAD_ID) | (ids[:, 1:] == model.full_id), -100)
        written = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-100, reduction="sum")
        mean.add("write", written, int((wanted >= 0).sum()))
        with_image = chunk["flags"][chunk["spans"][:, 0]]
        (text, at), cells = chunk["spans"][with_image].T, chunk["span_cells"][with_image]
        told = heads.next(hidden[NOUN_LAYER][text, at])
        mean.add("next", F.binary_cross_entropy_with_logits(told, cells, reduction="sum"), len(at))
        looks = attention.logits(NOUN_LAYER - 1, "cross", text, at, LOOKING)
        mean.add("look next", nats(looks, or_class_token(cells)), len(at))
    attention.forget()
    return mean.all()


def match_losses(
    model: Blip, heads: BlipHeads, attention: Attention, chunks: list[Batch], images: Tensor
) -> dict[str, Tensor]:
    """``match``: cross entropy of true or false; ``pair``: of which of two captions is the true one; ``word``,
    ``noun``, ``clause``: of marked words.

    Attention, by layer: ``look word`` from an attribute to the cells that have it, and ``look adjective`` from a noun
    to its own words; ``look noun`` from a noun to the cells of its claim; ``look link`` from a relation's second noun
    to its first; ``look false`` from the start token, which is judged, to the ends of false parts (to itself where all
    are true).
    """
    mean = Mean()
    for chunk in chunks:
        ids = chunk["ids"]
        logits, hidden = model.match(ids, images[chunk["rows"]])
        mean.add("match", F.cross_entropy(logits, chunk["flags"].long(), reduction="sum"), len(logits))
        if pairs := chunk.get("pairs"):
            odds = logits[:, 1] - logits[:, 0]
            mean.add("pair", F.softplus(odds[pairs:] - odds[:pairs]).sum(), pairs)

        text, at = chunk["words"].T
        having = heads.word(hidden[WORD_LAYER][text, at])
        mean.add("word", F.binary_cross_entropy_with_logits(having, chunk["word_cells"], reduction="sum"), len(at))
        looks = attention.logits(WORD_LAYER - 1, "cross", text, at, LOOKING)
        mean.add("look word", nats(looks, or_class_token(chunk["word_cells"])), len(at))

        text, at = chunk["nouns"].T
        places = heads.noun(hidden[NOUN_LAYER][text, at])
        mean.add("noun", F.binary_cross_entropy_with_logits(places, chunk["noun_cells"], reduction="sum"), len(at))
        looks = attention.logits(NOUN_LAYER - 1, "cross", text, at, LOOKING)
        mean.add("look noun", nats(looks, or_class_token(chunk["noun_cells"])), len(at))
        place = torch.arange(ids.shape[1], device=ids.device)
        own = (place <= at[:, None]) & (place >= (at - chunk["adjectives"])[:, None])
        looks = attention.logits(WORD_LAYER - 1, "self", text, at, 1)
        mean.add("look adjective", nats(_unpadded(looks, ids[text]), own), len(at))

        text, second, first = chunk["links"].T
        looks = attention.logits(PART_LAYER - 1, "self", text, second, 1)
        mean.add("look link", nats(_unpadded(looks, ids[text]), place == first[:, None]), len(text))

        text, at = chunk["truths"].T
        clauses = heads.clause(hidden[PART_LAYER][text, at])[:, 0]
        mean.add("clause", F.binary_cross_entropy_with_logits(clauses, chunk["true"], reduction="sum"), len(at))
        false = torch.zeros_like(ids, dtype=torch.bool)
        false[text, at] = chunk["true"] == 0
        false[:, 0] = ~false.any(dim=1)
        rows = torch.arange(len(ids), device=ids.device)
        looks = attention.logits(PART_LAYER, "self", rows, torch.zeros_like(rows), LOOKING)
        mean.add("look false", nats(_unpadded(looks, ids), false), len(ids))
    attention.forget()
    return mean.all()


def _unpadded(logits: Tensor, ids: Tensor) -> Tensor:
    """Attention (N, heads, T) to texts (N, T) as the model has it: none to padding."""
    return logits.masked_fill((ids == PAD_ID)[:, None], -1e4)
