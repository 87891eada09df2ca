"""Captions of many images by the captioner, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from models.captioners import caption_each
from models.errors import InvalidInput, ModelError
from models.protocols import Caption, Decoding
from models.recipes.recipe import Subject
from models.recipes.tools import Tools

BATCH = 32
"""Images that are captioned at a time: what an interactive call may have to wait for on a device that both use."""


def decoding_of(params: Any, **other: Any) -> Decoding:
    """How the words are chosen, by the parameters of a recipe that have the names of `Decoding`.

    Raises:
        InvalidInput: parameters that exclude each other.
    """
    given = {
        "max_tokens": params.max_tokens,
        "beams": getattr(params, "beams", 1),
        "temperature": float(params.temperature),
        "top_p": float(params.top_p),
        "seed": params.seed,
        "guidance": float(getattr(params, "gamma", 1.0)),
    }
    try:
        return Decoding(**{**given, **other})
    except ValueError as error:
        raise InvalidInput(str(error)) from error


def captions_of(
    subjects: Sequence[Subject], tools: Tools, prompt: str, decoding: Decoding
) -> list[Caption | ModelError]:
    """One caption for each subject, or why there is none; an empty caption is none.

    Raises:
        ModelError: the captioner cannot be had, or the prompt or the decoding cannot be used.
    """
    captioner = tools.captioner
    found: list[Caption | ModelError] = []
    for first in range(0, len(subjects), BATCH):
        part = subjects[first : first + BATCH]
        prepared = [_prepared(captioner, subject) for subject in part]
        good = [each for each in prepared if not isinstance(each, ModelError)]
        captions = iter(caption_each(captioner, good, prompt or None, decoding))
        found += [each if isinstance(each, ModelError) else next(captions) for each in prepared]
    return [_not_empty(each) for each in found]


def _prepared(captioner: Any, subject: Subject) -> np.ndarray | ModelError:
    try:
        prepared: np.ndarray = captioner.prepare_image(subject.image)
    except ModelError as error:
        return error
    return prepared


def _not_empty(found: Caption | ModelError) -> Caption | ModelError:
    if isinstance(found, Caption) and not found.text.strip():
        return InvalidInput("the captioner wrote nothing about it")
    return found
