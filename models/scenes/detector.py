"""The detector's head: what lies in each cell of the scenes' grid, and where, from a vision tower's patch tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from .dataset import CELL_CLASSES, cell_classes
from .scene import Box, Scene
from .vocabulary import COLOURS, GRID, SHAPES, TEXTURES

CLASSES: Final = CELL_CLASSES | {"inner texture": len(TEXTURES) + 1}
"""Classes of a cell's two places: a thing, and one that lies inside it. 0 means that nothing lies there."""
INNER: Final = 4.0
_NAMES: Final = tuple(CLASSES)
_COLOURS: Final = tuple(COLOURS)


@dataclass(frozen=True, slots=True)
class Detection:
    """One thing that was found. ``box`` is (left, top, right, bottom) in shares of the image's sides."""

    shape: str
    colour: str
    score: float
    box: Box


def place_classes(scene: Scene) -> NDArray[np.int64]:
    """The classes of CLASSES for each cell, row by row, shape (9, 7)."""
    inner = np.zeros((GRID * GRID, 1), dtype=np.int64)
    for thing in scene.things:
        if thing.holder >= 0:
            inner[_cell(thing.x, thing.y), 0] = TEXTURES.index(thing.texture) + 1
    return np.concatenate([cell_classes(scene), inner], axis=1)


def place_boxes(scene: Scene) -> NDArray[np.float32]:
    """(centre x, y, width, height) of each cell's two things, shape (9, 2, 4), in sides of a cell.

    The centre is counted from the cell's own; 0 where nothing lies.
    """
    out = np.zeros((GRID * GRID, 2, 4), dtype=np.float32)
    for thing in scene.things:
        left, top, right, bottom = thing.box
        cell = _cell(thing.x, thing.y)
        row, column = divmod(cell, GRID)
        x = (left + right) / 2 * GRID - column - 0.5
        y = (top + bottom) / 2 * GRID - row - 0.5
        out[cell, int(thing.holder >= 0)] = x, y, (right - left) * GRID, (bottom - top) * GRID
    return out


def _cell(x: float, y: float) -> int:
    return int(y * GRID) * GRID + int(x * GRID)


class DetectorHead(nn.Module):
    """Classes and two boxes for each patch token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.classes = nn.Linear(width, sum(CLASSES.values()))
        self.boxes = nn.Linear(width, 8)

    def forward(self, tokens: Tensor) -> tuple[list[Tensor], Tensor]:
        """Tokens (B, 9, width) to (logits of each of CLASSES (B, 9, n), boxes (B, 9, 2, 4))."""
        hidden = F.gelu(self.hidden(tokens)) + tokens
        parts = self.classes(hidden).split(list(CLASSES.values()), dim=-1)
        return list(parts), self.boxes(hidden).unflatten(-1, (2, 4))

    def loss(self, tokens: Tensor, classes: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """(cross entropy in nats, summed over CLASSES; mean absolute error of a box's number where a thing lies).

        A cell that holds an inner thing counts INNER times in the inner classes: few do, and those things are small.
        """
        parts, found = self(tokens)
        named = tokens.new_zeros(())
        for k, (name, part) in enumerate(zip(_NAMES, parts, strict=True)):
            nats = F.cross_entropy(part.flatten(0, 1), classes[..., k].flatten(), reduction="none")
            counts = torch.where(classes[..., k].flatten() > 0, INNER if name.startswith("inner") else 1.0, 1.0)
            named = named + (nats * counts).mean()
        there = torch.stack([classes[..., 0] > 0, classes[..., 4] > 0], dim=-1).unsqueeze(-1)
        placed = ((found - boxes).abs() * there).sum() / (4 * there.sum()).clamp(min=1)
        return named, placed

    @torch.inference_mode()
    def accuracy(self, tokens: Tensor, classes: Tensor) -> dict[str, float]:
        """Share of occupied places whose class is right, for each of CLASSES."""
        parts, _ = self(tokens)
        out = {}
        for k, (name, part) in enumerate(zip(CLASSES, parts, strict=True)):
            there = classes[..., k] > 0
            out[name] = (part.argmax(-1) == classes[..., k])[there].float().mean().item()
        return out

    @torch.inference_mode()
    def detect(self, tokens: Tensor, least: float = 0.05) -> list[list[Detection]]:
        """What lies in each image of tokens (B, 9, width), best first.

        The score is the probability of the likeliest shape times that of the likeliest colour; a place is left out
        where that is under ``least``.
        """
        parts, boxes = self(tokens.float())
        places = []
        for shape, colour in (("shape", "colour"), ("inner shape", "inner colour")):
            shapes = parts[_NAMES.index(shape)].softmax(-1)[..., 1:].max(-1)
            colours = parts[_NAMES.index(colour)].softmax(-1)[..., 1:].max(-1)
            places.append((shapes.values * colours.values, shapes.indices, colours.indices))
        scores, shapes, colours = (torch.stack(part, dim=-1).cpu().numpy() for part in zip(*places, strict=True))
        corners = _corners(boxes.cpu().numpy())
        out = []
        for score, shape, colour, box in zip(scores, shapes, colours, corners, strict=True):
            found = [
                Detection(SHAPES[shape[at]], _COLOURS[colour[at]], float(score[at]), _four(box[at]))
                for at in zip(*np.nonzero(score >= least), strict=True)
            ]
            out.append(sorted(found, key=lambda detection: -detection.score))
        return out


def _corners(boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    """Boxes (B, 9, 2, 4) of ``place_boxes`` as (left, top, right, bottom) in shares of the image's sides."""
    rows, columns = np.divmod(np.arange(GRID * GRID), GRID)
    x = (boxes[..., 0] + columns[:, None] + 0.5) / GRID
    y = (boxes[..., 1] + rows[:, None] + 0.5) / GRID
    w, h = boxes[..., 2] / GRID / 2, boxes[..., 3] / GRID / 2
    return np.stack([x - w, y - h, x + w, y + h], axis=-1).clip(0.0, 1.0)


def _four(box: NDArray[np.float64]) -> Box:
    left, top, right, bottom = (float(value) for value in box)
    return left, top, right, bottom
