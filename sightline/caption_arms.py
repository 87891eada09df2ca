"""What `sightline eval captions` compares: recipes that need no language model, with their parameters filled in."""

from __future__ import annotations

from typing import Any

from sightline.recipes import recipes_of

_THINGS = ("detector",)
_PATTERNS = ("detector", "attributes")
_WORDS = ("detector", "ocr")

# name, recipe, parameters that are not defaults, whose boxes, whether on scenes with a painted word.
# gamma is the sweep of paper 30, and n its recipe's default: nothing was chosen on these scenes.
_ARMS: tuple[tuple[str, str, dict[str, Any], str, bool], ...] = (
    ("describe", "describe", {}, "detector", False),
    ("describe, 4 beams", "describe", {"beams": 4}, "detector", False),
    ("describe, sampled", "describe", {"temperature": 0.7}, "detector", False),
    ("describe, asked for everything", "describe", {"prompt": "<|full|>"}, "detector", False),
    ("guided, gamma 1.5", "guided", {}, "detector", False),
    ("guided, gamma 2", "guided", {"gamma": 2}, "detector", False),
    ("guided, gamma 3", "guided", {"gamma": 3}, "detector", False),
    ("best-of-n, n 8", "best-of-n", {}, "detector", False),
    ("fusecap by rules", "fusecap", {"fuser": "rules", "experts": _THINGS}, "detector", False),
    ("fusecap by rules, true boxes", "fusecap", {"fuser": "rules", "experts": _THINGS}, "truth", False),
    ("fusecap by rules, patterns too", "fusecap", {"fuser": "rules", "experts": _PATTERNS}, "detector", False),
    ("long", "long", {}, "detector", False),
    ("counterfactual", "counterfactual", {}, "detector", False),
    ("painted word: describe", "describe", {}, "detector", True),
    ("painted word: fusecap without reading", "fusecap", {"fuser": "rules", "experts": _THINGS}, "detector", True),
    ("painted word: fusecap with OCR", "fusecap", {"fuser": "rules", "experts": _WORDS}, "detector", True),
)


def caption_arms() -> list[dict[str, Any]]:
    """The arms as `models.scenes.evaluate_captions.Arm` takes them; with all parameters."""
    specs = recipes_of("caption")
    return [
        {"name": name, "recipe": recipe, "params": specs[recipe].fill(given).model_dump(mode="json"), "boxes": boxes,
         "words": words}
        for name, recipe, given, boxes, words in _ARMS
    ]  # fmt: skip
