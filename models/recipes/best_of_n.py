"""Of n drawn captions the one that best tells its image from the nearest stored ones; see `models.recipes.judge`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from models.errors import InvalidInput, ModelError
from models.protocols import Caption
from models.recipes.judge import Candidate, Judged, judge
from models.recipes.local import drawn
from models.recipes.plain import decoding_of
from models.recipes.recipe import Answer, Subject, Written
from models.recipes.tools import Tools

BATCH = 128
"""Captions that are drawn at a time."""


class BestOfN:
    """The likeliest caption and n - 1 drawn ones are judged; the best `keep` are stored."""

    def model(self, tools: Tools, params: Any) -> str:
        """The captioner; the space that judged stands in the provenance."""
        return tools.captioner.identity.model

    def versions(self, params: Any) -> dict[str, str]:
        """Nothing else."""
        return {}

    def write(self, subjects: Sequence[Subject], tools: Tools, params: Any) -> list[Answer]:
        """See `models.recipes.recipe.Recipe`."""
        pools = candidates_of(subjects, tools, params)
        texts = [candidate.text for pool in pools if not isinstance(pool, ModelError) for candidate in pool]
        vectors = tools.encoder.texts(texts)
        answers: list[Answer] = []
        first = 0
        for subject, pool in zip(subjects, pools, strict=True):
            if isinstance(pool, ModelError):
                answers.append(pool)
                continue
            mine = vectors[first : first + len(pool)]
            first += len(pool)
            image = subject.vector if subject.vector is not None else tools.encoder.images([subject.image])[0]
            judged = judge(pool, mine, image, subject.neighbours, params)
            answers.append(_written(subject, judged, params, tools.encoder.model))
        return answers


def candidates_of(subjects: Sequence[Subject], tools: Tools, params: Any) -> list[list[Candidate] | ModelError]:
    """The captions to choose from for each subject: the likeliest first, no text twice.

    Raises:
        ModelError: the captioner cannot be had, or the prompt cannot be used.
    """
    captioner = tools.captioner
    sampled = decoding_of(params)
    greedy = replace(sampled, temperature=0.0, top_p=1.0)
    pools: list[list[Candidate] | ModelError] = []
    size = max(1, BATCH // params.n)
    for start in range(0, len(subjects), size):
        part = subjects[start : start + size]
        pixels = [captioner.prepare_image(subject.image) for subject in part]
        try:
            likeliest = drawn(captioner, pixels, 1, params.prompt or None, greedy)
            others = drawn(captioner, pixels, params.n - 1, params.prompt or None, sampled)
        except InvalidInput:
            raise
        except ModelError as error:
            if len(part) == 1:
                pools.append(error)
            else:  # one of them is to blame
                for subject in part:
                    pools += candidates_of([subject], tools, params)
            continue
        pools += [_pool([*first, *more]) for first, more in zip(likeliest, others, strict=True)]
    return pools


def _pool(captions: Sequence[Caption]) -> list[Candidate] | ModelError:
    found: dict[str, Candidate] = {}
    for caption in captions:
        text = " ".join(caption.text.split())
        if text and text not in found:
            found[text] = Candidate(text, caption.score, caption.truncated)
    return list(found.values()) or InvalidInput("the captioner wrote nothing about it")


def _written(subject: Subject, judged: Sequence[Judged], params: Any, encoder: str) -> list[Written]:
    order = np.argsort([-each.score for each in judged], kind="stable")
    plain = judged[0].candidate.text
    return [
        Written(
            judged[place].candidate.text,
            judged[place].score,
            judged[place].scores,
            truncated=judged[place].candidate.truncated,
            provenance={
                "candidates": len(judged),
                "likeliest": plain,
                "judged_by": encoder,
                "told_from": list(subject.neighbour_ids),
            },
        )
        for place in order[: params.keep]
    ]
