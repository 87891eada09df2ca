"""The training losses: contrastive, and auxiliary ones from the known truth whose heads are thrown away afterwards."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .dataset import CELL_CLASSES
from .vocabulary import BACKGROUNDS, COLOURS, SHAPES, SIZES, STYLES, TEXTURES, WORDS

_COUNTS = (len(SHAPES), len(COLOURS), len(SIZES), len(TEXTURES))
_PAIRS = ((0, 1), (0, 2), (0, 3), (1, 3), (1, 2))
"""Pairs of attributes (of shape, colour, size, texture) whose joint presence an embedding must tell."""
SCENE_CLASSES = (6, len(BACKGROUNDS), len(WORDS) + 1, len(STYLES) + 1)


def contrastive(image: Tensor, text: Tensor, scale: Tensor, also: Tensor) -> Tensor:
    """Symmetric InfoNCE (CLIP, arXiv:2103.00020) of unit vectors (B, D), in nats.

    ``also`` (B, B) marks pairs (caption i, scene j) that are true by chance. A caption shares its label out among all
    scenes it is true of (a short search should find each of them); for a scene, such captions are no negatives.
    """
    logits = scale * text @ image.T
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    labels = (own | also).float()
    find_image = F.cross_entropy(logits, labels / labels.sum(dim=1, keepdim=True))
    find_text = F.cross_entropy(logits.masked_fill(also, -1e4).T, torch.arange(len(logits), device=logits.device))
    return (find_image + find_text) / 2


def presence(things: Tensor) -> Tensor:
    """Which pairs of values some thing has, 0 or 1, shape (B, pairs), from codes (B, 6, 4) with -1 for none."""
    out = []
    there = (things[:, :, 0] >= 0).float()
    for a, b in _PAIRS:
        width = _COUNTS[a] * _COUNTS[b]
        index = (things[:, :, a] * _COUNTS[b] + things[:, :, b]).clamp(min=0)
        grid = torch.zeros(len(things), width, device=things.device)
        out.append(grid.scatter_reduce(1, index, there, "amax"))
    return torch.cat(out, dim=1)


class Heads(nn.Module):
    """Linear heads: cell classes from patch tokens, presence and scene classes from either tower's embedding."""

    def __init__(self, vision_width: int, embedding: int) -> None:
        super().__init__()
        self.cells = nn.Sequential(nn.LayerNorm(vision_width), nn.Linear(vision_width, sum(CELL_CLASSES.values())))
        self.pairs = nn.Linear(embedding, sum(_COUNTS[a] * _COUNTS[b] for a, b in _PAIRS))
        self.scene = nn.Linear(embedding, sum(SCENE_CLASSES))
        nn.init.constant_(self.pairs.bias, -3.0)
        self.gain = embedding**0.5

    def cell_loss(self, tokens: Tensor, cells: Tensor) -> Tensor:
        """Cross entropy of the cells' classes; tokens (B, 9, width), cells (B, 9, 6). In nats, summed over the six."""
        parts = self.cells(tokens).split(list(CELL_CLASSES.values()), dim=-1)
        return torch.stack(
            [F.cross_entropy(part.flatten(0, 1), cells[..., k].flatten()) for k, part in enumerate(parts)]
        ).sum()

    def pair_loss(self, embedding: Tensor, things: Tensor) -> Tensor:
        """Binary cross entropy of the pairs present, summed over pairs, mean over the batch; unit vectors (B, D)."""
        logits = self.pairs(embedding * self.gain)
        loss = F.binary_cross_entropy_with_logits(logits, presence(things), reduction="sum")
        return loss / max(len(embedding), 1)

    def scene_loss(self, embedding: Tensor, scene: Tensor) -> Tensor:
        """Cross entropy of count, background, word and style, summed; unit vectors (B, D), scene (B, 4)."""
        parts = self.scene(embedding * self.gain).split(list(SCENE_CLASSES), dim=-1)
        return torch.stack([F.cross_entropy(part, scene[:, k]) for k, part in enumerate(parts)]).sum()

    def cell_accuracy(self, tokens: Tensor, cells: Tensor) -> dict[str, float]:
        """Share of occupied cells whose class is right, for each kind of class."""
        out = {}
        parts = self.cells(tokens).split(list(CELL_CLASSES.values()), dim=-1)
        for k, (name, part) in enumerate(zip(CELL_CLASSES, parts, strict=True)):
            there = cells[..., k] > 0
            out[name] = (part.argmax(-1) == cells[..., k])[there].float().mean().item()
        return out
