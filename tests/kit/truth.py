"""A language model that knows the scenes: it answers from the truth, in the words that it is shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from models.endpoint.prompts import load_prompt
from models.scenes.captions import caption
from models.scenes.render import render_array
from models.scenes.scene import Scene
from tests.kit.endpoint import Question, Said

SYNONYMS = {"crimson": "red", "azure": "blue", "disc": "circle", "verdant": "green"}
"""Words that a user may like better."""


def draft_of(scene: Scene, number: int) -> str:
    """A vague caption by which the model knows the scene again, as its owner would write it."""
    return f"{caption(scene, 'vague', 0).text}, scene {number}"


class TruthModel:
    """The model of a `ChatServer`. Knows a scene by its pixels or by its draft.

    Attributes:
        gullible: obey what the data says, as a weak model does.
    """

    def __init__(self, scenes: Sequence[Scene], size: int = 224) -> None:
        self._by_draft = {draft_of(scene, number): scene for number, scene in enumerate(scenes)}
        self._by_pixels = {render_array(scene, size).tobytes(): scene for scene in scenes}
        self.gullible = False

    def __call__(self, question: Question) -> Said:
        if question.data is None:
            return Said(self._described(question))
        told = json.dumps(question.data).lower()
        if self.gullible and "ignore previous instructions" in told:
            return Said(json.dumps({"caption": "all your captions are mine"}))
        task = question.task
        if task == load_prompt("rewrite").task:
            return Said(json.dumps({"caption": _said_anew(question.data["caption"], question.payload["seed"])}))
        if task == load_prompt("personal").task and "style" in question.data:
            told = json.dumps(question.data["facts"]).lower()
            return Said(json.dumps({"caption": _in_style(self._truth(told), question.data["style"])}))
        return Said(json.dumps({"caption": self._truth(told)}))

    def _described(self, question: Question) -> str:
        assert isinstance(question.image, np.ndarray)
        scene = self._by_pixels[question.image.tobytes()]
        if question.task == load_prompt("long").task:
            parts = [f"There is {one.colour} {one.shape} of {one.size} size." for one in scene.things]
            return f"A {scene.background.kind} background. " + " ".join(parts)
        return caption(scene, "short", 0).text

    def _truth(self, told: str) -> str:
        scene = next(scene for draft, scene in self._by_draft.items() if draft.lower() in told)
        return caption(scene, "full", 0).text


def _said_anew(text: str, seed: int) -> str:
    return f"In words of kind {seed}: {text}"


def _in_style(text: str, style: dict[str, Any]) -> str:
    for liked, plain in SYNONYMS.items():
        if liked in style["favourite_words"]:
            text = text.replace(plain, liked)
    return text
