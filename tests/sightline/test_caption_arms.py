"""What `sightline eval captions` compares."""

from __future__ import annotations

from sightline.caption_arms import caption_arms
from sightline.recipes import recipe_named, recipes_of

NEEDS_A_LANGUAGE_MODEL = {"rewrite", "visual-enriched", "personal"}


def test_every_recipe_that_needs_no_language_model_is_compared() -> None:
    compared = {arm["recipe"] for arm in caption_arms()}
    assert compared == set(recipes_of("caption")) - NEEDS_A_LANGUAGE_MODEL
    for name in NEEDS_A_LANGUAGE_MODEL:
        spec = recipe_named(name)
        assert spec is not None
        assert "llm" in spec.needs


def test_the_parameters_are_whole_and_the_baseline_is_first() -> None:
    arms = caption_arms()
    assert (arms[0]["name"], arms[0]["recipe"], arms[0]["words"]) == ("describe", "describe", False)
    assert len({arm["name"] for arm in arms}) == len(arms)
    for arm in arms:
        spec = recipe_named(arm["recipe"])
        assert spec is not None
        assert arm["params"].keys() == spec.params.model_fields.keys()
