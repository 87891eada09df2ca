"""How captions are written: one file for each recipe of `sightline.recipes`."""

from __future__ import annotations

from importlib import import_module

from models.errors import ModelError
from models.recipes.recipe import Answer, Known, Recipe, Subject, Written
from models.recipes.tools import Lacking, Matcher, Tools, Vectors

__all__ = [
    "Answer", "Known", "Lacking", "Matcher", "Recipe", "Subject", "Tools", "UnknownRecipe", "Vectors", "Written",
    "load_recipe",
]  # fmt: skip

_FILES = {
    "describe": ("describe", "Describe"),
    "guided": ("guided", "Guided"),
    "best-of-n": ("best_of_n", "BestOfN"),
    "counterfactual": ("counterfactual", "Counterfactual"),
    "fusecap": ("fusecap", "FuseCap"),
    "rewrite": ("rewrite", "Rewrite"),
    "visual-enriched": ("visual_enriched", "VisualEnriched"),
    "long": ("long", "Long"),
    "personal": ("personal", "Personal"),
}
"""Module and class of each recipe."""


class UnknownRecipe(ModelError):
    """There is no code for this recipe."""


def load_recipe(name: str) -> Recipe:
    """The recipe of a name of `sightline.recipes`. Raises UnknownRecipe."""
    if name not in _FILES:
        raise UnknownRecipe(f"no recipe {name!r}; there are {', '.join(sorted(_FILES))}")
    module, member = _FILES[name]
    made: Recipe = getattr(import_module(f"models.recipes.{module}"), member)()
    return made
