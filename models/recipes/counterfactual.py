"""Captions that are wrong in one thing, to train on: the negatives of CountBench (arXiv 2302.12066) and of colours that
go to the wrong thing (concept association, arXiv 2212.12043).

They are made from captions that the image has, and the matcher has the last word: what fits the image as well as the
caption it was made from may be true, and is no negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from models.errors import InvalidInput, ModelError
from models.protocols import Decoding
from models.recipes.plain import captions_of
from models.recipes.recipe import Answer, Subject, Written
from models.recipes.tools import Tools
from models.recipes.wrong import Change, changes

TRIED = 6
"""Changes of one kind and caption that the matcher is asked about, for each that is wanted."""
_Tried = list[tuple[str, Change]]  # each with the caption that it was made from


class Counterfactual:
    """Up to `each` wrong captions of each kind for each image."""

    def model(self, tools: Tools, params: Any) -> str:
        """The matcher, which decides what is stored; the words are those of other captions."""
        return tools.matcher.model

    def versions(self, params: Any) -> dict[str, str]:
        """Nothing else."""
        return {}

    def write(self, subjects: Sequence[Subject], tools: Tools, params: Any) -> list[Answer]:
        """See `models.recipes.recipe.Recipe`."""
        sources = _sources(subjects, tools, params)
        tried = [_tried(subject, texts, params) for subject, texts in zip(subjects, sources, strict=True)]
        good = [row for row, each in enumerate(tried) if not isinstance(each, ModelError)]
        texts = [_texts(tried[row]) for row in good]
        odds = dict(zip(good, tools.matcher.match([subjects[row].image for row in good], texts), strict=True))
        answers: list[Answer] = []
        for row, each in enumerate(tried):
            if isinstance(each, ModelError):
                answers.append(each)
            else:
                answers.append(_kept(each, dict(zip(_texts(each), map(float, odds[row]), strict=True)), params))
        return answers


def _sources(subjects: Sequence[Subject], tools: Tools, params: Any) -> list[list[str] | ModelError]:
    """The true captions to change; what has none is described first."""
    found: list[list[str] | ModelError] = []
    for subject in subjects:
        own = list(subject.own) if "own" in params.sources else []
        found.append([*own, *(known.text for known in subject.stored if known.recipe in params.sources)])
    bare = [row for row, texts in enumerate(found) if not texts]
    if bare and tools.has("captioner"):
        captions = captions_of([subjects[row] for row in bare], tools, "", Decoding())
        for row, caption in zip(bare, captions, strict=True):
            found[row] = caption if isinstance(caption, ModelError) else [caption.text]
    return found


def _tried(subject: Subject, texts: list[str] | ModelError, params: Any) -> _Tried | ModelError:
    if isinstance(texts, ModelError):
        return texts
    if subject.lang.split("-")[0] != "en":
        return InvalidInput(f"captions can be made wrong in English only, not in {subject.lang}")
    dice = np.random.default_rng([params.seed, subject.item_id])
    found: _Tried = []
    for kind in params.kinds:
        for text in texts:
            possible = changes(text, kind)
            near, far = possible[:TRIED], possible[TRIED:]  # likely mistakes first
            order = [*dice.permutation(len(near)), *(len(near) + dice.permutation(len(far)))]
            found += [(text, possible[place]) for place in order[: TRIED * params.each]]
    if not found:
        kinds = " or ".join(params.kinds)
        return InvalidInput(f"no caption of it names a {kinds} that could be made wrong")
    return found


def _texts(tried: _Tried | ModelError) -> list[str]:
    assert not isinstance(tried, ModelError)
    return list(dict.fromkeys([*(text for text, _ in tried), *(change.text for _, change in tried)]))


def _kept(tried: _Tried, odds: dict[str, float], params: Any) -> Answer:
    written: list[Written] = []
    texts: set[str] = set()
    for kind in params.kinds:
        kept = 0
        for source, change in tried:
            gap = odds[source] - odds[change.text]
            if kept == params.each or change.kind != kind or change.text in texts or not gap > params.margin:
                continue
            kept += 1
            texts.add(change.text)
            written.append(
                Written(
                    change.text, score=gap, negative=True, scores={"true": odds[source], "wrong": odds[change.text]},
                    provenance={"kind": kind, "from": source, "old": change.old, "new": change.new},
                )
            )  # fmt: skip
    return written or InvalidInput("whatever was made wrong fits the image as well as the caption it was made from")
