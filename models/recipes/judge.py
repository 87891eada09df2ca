"""Which of several captions of one image is best: the score of `best-of-n`, and of what is held against it.

The caption must let a searcher tell its image from its nearest neighbours (Dessi et al. 2023, arXiv 2304.01662): the
log of the softmax, over the image and its neighbours, of sharpness times the cosine with the caption. Alone that is
gamed by word salad, so it is held in check as in Cho et al. 2022 (arXiv 2205.13115), with the means at hand: the
captioner's own mean log-likelihood of the words in their order stands for grammar, and whatever repeats itself more or
runs on longer than the likeliest caption pays for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

_WORD = re.compile(r"\w+")
CLIP_SCORE = 2.5
"""Weight of the cosine where there is no neighbour to be told from (Hessel et al. 2021)."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A caption to choose from; `likelihood` is the captioner's mean log-probability of a token, None if unknown."""

    text: str
    likelihood: float | None
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Judged:
    """A candidate with its score and what that is the sum of."""

    candidate: Candidate
    score: float
    scores: dict[str, float]


def judge(
    candidates: Sequence[Candidate], texts: np.ndarray, image: np.ndarray, neighbours: np.ndarray | None, params: Any
) -> list[Judged]:
    """The candidates with their scores, in their order.

    Args:
        candidates: the first is the likeliest, with which length and repetition are compared.
        texts: float32 (n, dim), their unit vectors.
        image: float32 (dim,), the image's unit vector.
        neighbours: float32 (k, dim), unit vectors of the images it is to be told from; None or empty for none.
        params: of `best-of-n`.
    """
    identified = _identified(texts, image, neighbours, params.sharpness)
    plain = candidates[0].text
    found = []
    for candidate, identity in zip(candidates, identified, strict=True):
        scores = {"identified": float(identity)}
        if candidate.likelihood is not None:
            scores["grammar"] = params.grammar * candidate.likelihood
        scores["repetition"] = -params.repetition * max(0.0, repetition(candidate.text) - repetition(plain))
        scores["length"] = -params.length * max(0, len(_words(candidate.text)) - len(_words(plain)))
        found.append(Judged(candidate, sum(scores.values()), scores))
    return found


def repetition(text: str) -> float:
    """Share, from 0 to 1, of the pairs of neighbouring words, and of the words, that came before in the text."""
    words = _words(text)
    pairs = list(pairwise(words))
    shares = [1 - len(set(each)) / len(each) for each in (words, pairs) if each]
    return sum(shares) / len(shares) if shares else 0.0


def _identified(texts: np.ndarray, image: np.ndarray, neighbours: np.ndarray | None, sharpness: float) -> np.ndarray:
    own = (texts @ image).astype(np.float64)
    if neighbours is None or not len(neighbours):
        alone: np.ndarray = CLIP_SCORE * np.maximum(own, 0)
        return alone
    logits = sharpness * np.concatenate([own[:, None], texts @ neighbours.T], axis=1)
    top = logits.max(axis=1)
    odds: np.ndarray = logits[:, 0] - top - np.log(np.exp(logits - top[:, None]).sum(axis=1))
    return odds


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
