"""Relations between two things, by their truth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from .scene import Scene

RELATIONS: Final = ("left of", "above", "inside", "larger than")
_GAP = 0.16
"""Least distance of two centres, as a share of the image's side, for one to be left of or above the other."""


def holds(scene: Scene, name: str, i: int, j: int) -> bool:
    """Whether thing ``i`` stands in the relation to thing ``j``. Raises ``ValueError`` for an unknown relation."""
    a, b = scene.things[i], scene.things[j]
    if i == j:
        return False
    if name == "left of":
        return a.x + _GAP < b.x
    if name == "above":
        return a.y + _GAP < b.y
    if name == "inside":
        return a.holder == j
    if name == "larger than":
        return a.radius > 1.3 * b.radius
    raise ValueError(f"unknown relation {name!r}; known are {', '.join(RELATIONS)}")


def relations(scene: Scene) -> Iterator[tuple[int, str, int]]:
    """Every (i, relation, j) that holds in the scene."""
    for i in range(len(scene)):
        for j in range(len(scene)):
            for name in RELATIONS:
                if holds(scene, name, i, j):
                    yield i, name, j
