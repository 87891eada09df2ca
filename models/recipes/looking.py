"""What the vision experts that a recipe asks for find in its subjects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from models.errors import ModelError
from models.experts.attributes import AttributeRecogniser
from models.experts.colours import ColourNamer
from models.experts.finding import Finding, Found
from models.recipes.recipe import Subject
from models.recipes.tools import Tools

_MOST_TOLD = 40
"""Findings of one image that are told to a language model and kept as provenance."""


class Looking(Protocol):
    """The parameters that say whom to ask."""

    experts: tuple[str, ...]
    least: float | None
    labels: tuple[str, ...]
    attributes: tuple[str, ...]


def look(subjects: Sequence[Subject], tools: Tools, params: Looking) -> list[Found]:
    """The findings of all experts on each subject that are sure enough.

    A subject that one expert cannot look at has that error. Raises Lacking, or MissingLibrary for words.
    """
    images = [subject.image for subject in subjects]
    out: list[Found] = [[] for _ in subjects]
    if "detector" in params.experts or "attributes" in params.experts:
        detector = tools.get("detector")
        least = detector.trusted if params.least is None else params.least
        named = getattr(detector, "find_labels", None)  # an open vocabulary has to be asked for something
        found = named(images, params.labels) if named else detector.find(images)
        things = [_sure(one, least) for one in found]
        _join(out, things)
        if "attributes" in params.experts:
            recogniser = AttributeRecogniser(detector, tools.encoder, params.attributes, least)
            least = recogniser.trusted if params.least is None else params.least
            _join(out, [_sure(one, least) for one in recogniser.of(images, things)])
    if "ocr" in params.experts:
        _join(out, tools.get("ocr").find(images))
    if "colours" in params.experts:
        _join(out, ColourNamer().find(images))
    return out


def told(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """The findings as JSON, bounded."""
    return [one.to_dict() for one in findings[:_MOST_TOLD]]


def _sure(found: Found, least: float) -> Found:
    return found if isinstance(found, ModelError) else [one for one in found if one.score >= least]


def _join(out: list[Found], more: Sequence[Found]) -> None:
    for place, found in enumerate(more):
        have = out[place]
        if not isinstance(have, ModelError):
            out[place] = found if isinstance(found, ModelError) else [*have, *found]
