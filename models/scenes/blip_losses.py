"""The training losses of captioner, matcher and detector; the heads here only help, and are thrown away afterwards."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blip import READ_LAYER, WORD_LAYER, Blip
from .encoder import scale_pixels
from .losses import SCENE_CLASSES
from .tokens import PAD_ID

Batch = dict[str, Any]


class BlipHeads(nn.Module):
    """Linear heads, thrown away afterwards.

    Of words: which cells have their attribute, which hold a claim's thing, whether a clause is true (matcher), which
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


def losses(model: Blip, heads: BlipHeads, batch: Batch, *, text: bool = True) -> dict[str, Tensor]:
    """Each loss of a batch of ``BlipBatches`` by name, unweighted; without ``text`` those of the image alone."""
    images = model.images(scale_pixels(batch["pixels"]))
    named, placed = model.detector.loss(images[:, 1:], batch["classes"], batch["boxes"])
    out = {"cells": named, "boxes": placed, "place": heads.place_loss(images[:, 1:])}
    out["scene"] = heads.scene_loss(images[:, 0], batch["scene"])
    if text:
        out |= _write_losses(model, heads, batch["write"], images)
        out |= _match_losses(model, heads, batch["match"], images)
    return out


def _write_losses(model: Blip, heads: BlipHeads, chunks: list[Batch], images: Tensor) -> dict[str, Tensor]:
    """``write``: mean cross entropy of a token after the prompt, in nats; ``next``: of the cells to speak of next."""
    nats, tokens, cells, marks = [], 0, [], 0
    for chunk in chunks:
        ids = chunk["ids"]
        seen = images[chunk["rows"]] * chunk["flags"][:, None, None]
        logits, hidden = model.tell(ids[:, :-1], seen)
        wanted = ids[:, 1:].masked_fill(ids[:, 1:] == PAD_ID, -100)
        wanted = wanted.masked_fill(wanted == model.full_id, -100)
        nats.append(F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-100, reduction="sum"))
        tokens += int((wanted >= 0).sum())
        with_image = chunk["flags"][chunk["spans"][:, 0]]
        at = chunk["spans"][with_image]
        told = heads.next(hidden[at[:, 0], at[:, 1]])
        cells.append(F.binary_cross_entropy_with_logits(told, chunk["span_cells"][with_image], reduction="sum"))
        marks += len(at)
    return {"write": torch.stack(nats).sum() / max(tokens, 1), "next": torch.stack(cells).sum() / max(marks, 1)}


def _match_losses(model: Blip, heads: BlipHeads, chunks: list[Batch], images: Tensor) -> dict[str, Tensor]:
    """``match``: cross entropy of true or false; ``word``, ``noun``, ``clause``: the same for marked words."""
    sums: dict[str, list[Tensor]] = {"match": [], "word": [], "noun": [], "clause": []}
    counts = dict.fromkeys(sums, 0)
    for chunk in chunks:
        logits, hidden = model.match(chunk["ids"], images[chunk["rows"]])
        words, nouns, truths = chunk["words"], chunk["nouns"], chunk["truths"]
        having = heads.word(hidden[WORD_LAYER][words[:, 0], words[:, 1]])
        places = heads.noun(hidden[READ_LAYER][nouns[:, 0], nouns[:, 1]])
        clauses = heads.clause(hidden[-1][truths[:, 0], truths[:, 1]])[:, 0]
        sums["match"].append(F.cross_entropy(logits, chunk["flags"].long(), reduction="sum"))
        sums["word"].append(F.binary_cross_entropy_with_logits(having, chunk["word_cells"], reduction="sum"))
        sums["noun"].append(F.binary_cross_entropy_with_logits(places, chunk["noun_cells"], reduction="sum"))
        sums["clause"].append(F.binary_cross_entropy_with_logits(clauses, chunk["true"], reduction="sum"))
        for name, marks in (("match", logits), ("word", words), ("noun", nouns), ("clause", truths)):
            counts[name] += len(marks)
    return {name: torch.stack(values).sum() / max(counts[name], 1) for name, values in sums.items()}
