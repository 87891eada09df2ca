"""Which recipes there are. Needs no model: the worker has their code (models/recipes)."""

from __future__ import annotations

from sightline.recipes.caption import CAPTION_RECIPES
from sightline.recipes.enrich import ENRICH_RECIPES
from sightline.recipes.recipe import RecipeSpec

__all__ = ["RECIPES", "RecipeSpec", "recipe_named", "recipes_of"]

RECIPES: tuple[RecipeSpec, ...] = (*CAPTION_RECIPES, *ENRICH_RECIPES)


def recipes_of(kind: str) -> dict[str, RecipeSpec]:
    """The recipes of a kind of job by name, in order; none where the kind has no recipes."""
    return {spec.name: spec for spec in sorted(RECIPES, key=lambda spec: spec.name) if spec.kind == kind}


def recipe_named(name: str) -> RecipeSpec | None:
    """A recipe by its name, or None."""
    return next((spec for spec in RECIPES if spec.name == name), None)
