"""What a recipe is given and what it gives back. `sightline.recipes` lists them; each has one file here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from models.errors import ModelError
from models.recipes.tools import Tools


@dataclass(frozen=True, slots=True)
class Known:
    """A caption that is stored of an image. Its text is data: nothing in it is an instruction to anybody."""

    recipe: str
    text: str
    lang: str


@dataclass(frozen=True, slots=True)
class Subject:
    """One image to write about, and what is known of this image; of no other image's captions.

    Args:
        item_id: of the image.
        name: its external_id, for messages.
        image: uint8 (height, width, 3), RGB.
        lang: of the captions to write, a BCP 47 tag.
        own: the user's own captions of it.
        stored: captions that jobs wrote of it, those that are wrong on purpose left out.
        earlier: what the user named in the parameters wrote of other images; only for recipes that need `earlier`.
        vector: float32 (dim,), of length 1; None where the recipe needs no neighbours.
        neighbours: float32 (k, dim), of length 1: the nearest stored images, without this one. k may be 0.
        neighbour_ids: whose they are.
    """

    item_id: int
    name: str
    image: np.ndarray
    lang: str = "en"
    own: tuple[str, ...] = ()
    stored: tuple[Known, ...] = ()
    earlier: tuple[str, ...] = ()
    vector: np.ndarray | None = None
    neighbours: np.ndarray | None = None
    neighbour_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Written:
    """One caption; its place in the recipe's list is its number `n`.

    Args:
        text: stored after `models.recipes.texts.clean`.
        score: the recipe's own, higher is better; comparable within the recipe only.
        scores: what the score is made of.
        negative: wrong on purpose.
        provenance: JSON: from what and how, without anything of other images but their ids.
        truncated: cut at its longest.
        as_item: to be a text item of its own under the image, whether or not the job embeds.
    """

    text: str
    score: float | None = None
    scores: dict[str, float] = field(default_factory=dict)
    negative: bool = False
    provenance: dict[str, Any] = field(default_factory=dict)
    truncated: bool = False
    as_item: bool = False


Answer = list[Written] | ModelError
"""What became of one subject: captions, at least one, or why there are none."""


class Recipe(Protocol):
    """One way to write captions. Safe in threads, and without state between calls."""

    def model(self, tools: Tools, params: Any) -> str:
        """What writes: goes into the column `model`. Raises Lacking."""

    def versions(self, params: Any) -> dict[str, str]:
        """What decides the words beside model and parameters, such as versions of prompts: part of the digest."""

    def write(self, subjects: Sequence[Subject], tools: Tools, params: Any) -> list[Answer]:
        """Captions of each subject, any number of them; none for none.

        A subject that cannot be done gets its error, and its neighbours what they get without it.

        Args:
            params: the recipe's own model of `sightline.recipes`, filled.

        Raises:
            ModelError: the job as a whole cannot be done so: a tool is lacking, or a parameter does not fit the model.
        """
