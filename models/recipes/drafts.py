"""What a recipe begins with: a caption that is there already, or the captioner's."""

from __future__ import annotations

from collections.abc import Sequence

from models.errors import InvalidInput, ModelError
from models.protocols import GREEDY
from models.recipes.plain import captions_of
from models.recipes.recipe import Known, Subject
from models.recipes.tools import Tools

DESCRIBED = "describe"
"""Recipe of a draft that was written for the occasion."""


def known(subject: Subject, sources: Sequence[str]) -> Known | None:
    """The first caption of the first of these recipes that the image has; `own` is the user's."""
    for source in sources:
        if source == "own" and subject.own:
            return Known("own", subject.own[0], subject.lang)
        found = next((one for one in subject.stored if one.recipe == source), None)
        if found is not None:
            return found
    return None


def draft_each(subjects: Sequence[Subject], tools: Tools, sources: Sequence[str]) -> list[Known | ModelError]:
    """A draft for each subject: one that it has, or what the captioner says. Raises Lacking."""
    drafts: list[Known | ModelError | None] = [known(subject, sources) for subject in subjects]
    bare = [place for place, draft in enumerate(drafts) if draft is None]
    for place, told in zip(bare, describe_each([subjects[place] for place in bare], tools), strict=True):
        drafts[place] = told
    return [draft if draft is not None else InvalidInput("the image has no caption") for draft in drafts]


def describe_each(subjects: Sequence[Subject], tools: Tools) -> list[Known | ModelError]:
    """What the captioner says of each subject in its plain mode. Raises Lacking."""
    found = captions_of(subjects, tools, "", GREEDY) if subjects else []
    return [one if isinstance(one, ModelError) else Known(DESCRIBED, one.text, "en") for one in found]
