"""``sightline eval retrieval``: reranking and composed queries on rendered scenes that nobody trained on.

The gallery holds scenes and five edits of each, so that a picture or a few words alone do not tell which one is meant.
Reranking: the caption of an edited scene is the query, and the matcher orders the dual encoder's first 50 anew, as a
search does. Composed queries: a picture and an edit of it in words; the picture itself is no answer. Right is every
scene of which the wanted scene's caption is true. AP@10 is trec_eval's: the sum of precisions at the ranks of right
answers up to 10, over all right answers. Ties count against us. For `pdv` the texts of the reference and of what is
wanted are the true ones: how well somebody writes them is not measured here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from models.checkpoint import bundled_model
from models.matcher import BlipMatcher, load_matcher

from .captions import Caption, caption
from .card import verify
from .edit import EditError, random_edit
from .evaluate import THINGS, Encoder, pictures
from .recall import Figure, figure, measured
from .sample import sample_scene
from .scene import Scene

Tell = Callable[[str, float], None]
SEEDS: Final = 1000
TOP: Final = 50
DEEP: Final = 10
EDITS: Final = 5
ALPHA_IMAGE, ALPHA_TEXT, BETA = 1.4, 1.2, 0.75
BEFORE: Final = "dual encoder: caption to image recall@1"
AFTER: Final = f"matcher reranks the first {TOP}: caption to image recall@1"
BOTH: Final = f"matcher and dual encoder rerank the first {TOP} together: caption to image recall@1"
_REACH: Final = "reach"
LIFT: Final = "rerank: lift of recall@1"


@dataclass
class RetrievalReport:
    """Figures by name, and the targets that some of them have."""

    where: str
    figures: dict[str, Figure] = field(default_factory=dict)
    targets: dict[str, float] = field(default_factory=dict)

    @property
    def missed(self) -> list[str]:
        """Targets that are not reached."""
        return [name for name, target in self.targets.items() if self.figures[name].value < target]

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON types."""
        return {
            "where": self.where,
            "figures": {n: {**f.to_json(), "target": self.targets.get(n)} for n, f in self.figures.items()},
            "absent": [],
            "missed": self.missed,
        }


def report(seed: int, count: int, seeds: int, *, tell: Tell) -> RetrievalReport:
    """Measure on ``count`` test scenes of each of ``seeds`` seeds from ``seed``, pooled.

    Raises:
        ValueError: seeds or a count outside the range.
        WeightsRefused, ModelError: weights that are not those of their card.
    """
    if not 0 <= seed <= seed + seeds - 1 < SEEDS or not 10 <= count <= 10_000:
        raise ValueError(f"seeds must lie in 0 to {SEEDS - 1} and count in 10 to 10,000, got {seed}, {seeds}, {count}")
    folder = bundled_model()
    verify(folder)
    encoder, matcher = Encoder(folder), load_matcher(device="cpu")
    parts: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
    for number in range(seed, seed + seeds):
        tell(f"scenes of seed {number}", (number - seed) / seeds)
        asked = _Asked.draw(encoder, range(number * count, (number + 1) * count))
        for name, some in (*_reranked(encoder, matcher, asked), *_composed(asked)):
            parts[name].append(some)
    tell("figures", 1.0)
    found = RetrievalReport(
        f"{seeds} times {count} scenes of the split test, from seed {seed}, with {EDITS} edits of each. Ties "
        f"count against us; 95 % intervals by "
        f"bootstrap over queries."
    )
    values = {name: np.concatenate(lists) for name, lists in parts.items()}
    most = values.pop(_REACH)
    found.figures = {name: figure(hits) for name, hits in values.items()}
    lift = values[AFTER] - values[BEFORE]
    found.figures[LIFT] = figure(lift)
    found.targets[LIFT] = round(min(0.15, float(most.mean() - values[BEFORE].mean()) / 2), 4)
    for way in ("sum", "pdv"):
        best = max(found.figures[f"composed, {one}: AP@{DEEP}"].value for one in ("image only", "text only"))
        found.targets[f"composed, {way}: AP@{DEEP}"] = best
    return found


@dataclass(frozen=True)
class _Asked:
    """Queries of one seed: vectors of what is asked, and which pictures of the gallery are right.

    Args:
        references: places of the reference pictures in the gallery.
        words, reference_texts, wanted: vectors of the edits, of the references' captions and of the wanted scenes'.
        captions: of the wanted scenes.
    """

    shown: list[Image.Image]
    gallery: NDArray[np.floating]
    references: list[int]
    words: NDArray[np.floating]
    reference_texts: NDArray[np.floating]
    wanted: NDArray[np.floating]
    captions: list[str]
    right: dict[str, dict[str, int]]

    @classmethod
    def draw(cls, encoder: Encoder, numbers: range) -> _Asked:
        """For every scene that allows enough edits: the scene, its edits, and the first of them as what is wanted."""
        scenes: list[Scene] = []
        references: list[int] = []
        edits: list[str] = []
        texts: list[str] = []
        wanted: list[Caption] = []
        for number in numbers:
            scene = sample_scene(number, split_name="test", things=THINGS)
            found = _edits(scene, number)
            if found is None:
                continue
            references.append(len(scenes))
            edits.append(found[0][0])
            texts.append(caption(scene, "full", number).text)
            wanted.append(caption(found[0][1], "full", number))
            scenes += [scene, *(result for _, result in found)]
        shown = pictures(scenes)
        captions = [one.text for one in wanted]
        right = {
            str(query): {str(doc): 1 for doc, scene in enumerate(scenes) if doc != place and one.query.matches(scene)}
            for query, (place, one) in enumerate(zip(references, wanted, strict=True))
        }
        return cls(
            shown, encoder.images(shown), references, encoder.texts(edits), encoder.texts(texts),
            encoder.texts(captions), captions, right,
        )  # fmt: skip


def _edits(scene: Scene, number: int) -> list[tuple[str, Scene]] | None:
    """EDITS different results of edits in words; None where the scene allows fewer."""
    found: dict[Scene, str] = {}
    for draw in range(4 * EDITS):
        try:
            edit, result = random_edit(scene, 1000 * number + draw)
        except EditError:
            return None
        found.setdefault(result, edit.text())
        if len(found) == EDITS:
            return [(text, result) for result, text in found.items()]
    return None


def _reranked(encoder: Encoder, matcher: BlipMatcher, asked: _Asked) -> list[tuple[str, NDArray[np.float64]]]:
    """For each caption whether a right picture is first by the vectors, once the matcher alone has ordered the first
    TOP (as a search does), once both have (their log-odds added, as BLIP's own retrieval does), and whether one is
    among them."""
    pixels = [matcher.prepare(np.asarray(picture), "candidate").value for picture in asked.shown]
    tokens = torch.cat([matcher.see(pixels[first : first + TOP]) for first in range(0, len(pixels), TOP)])
    scores = asked.wanted @ asked.gallery.T
    temperature = float(encoder.model.logit_scale.exp().item())
    before, after, both = {}, {}, {}
    for query, text in enumerate(asked.captions):
        right = asked.right[str(query)]
        before[str(query)] = _run(scores[query], right)
        top = np.argsort(-scores[query], kind="stable")[:TOP]
        again = np.full(len(scores[query]), -np.inf)
        again[top] = matcher.log_odds([matcher.prepare(text, "query").value] * len(top), tokens[top])
        after[str(query)] = _run(again, right)
        both[str(query)] = _run(again + temperature * scores[query], right)
    return [
        (BEFORE, measured("Success", asked.right, before, 1)),
        (AFTER, measured("Success", asked.right, after, 1)),
        (BOTH, measured("Success", asked.right, both, 1)),
        (_REACH, measured("Success", asked.right, before, TOP)),
    ]


def _composed(asked: _Asked) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """AP@10 and recall@1 of each way to ask."""
    image, step = asked.gallery[asked.references], asked.wanted - asked.reference_texts
    ways = {
        "image only": image,
        "text only": asked.words,
        "wanted text": asked.wanted,
        "sum": image + asked.words,
        "pdv": (1 - BETA) * (image + ALPHA_IMAGE * step) + BETA * (asked.reference_texts + ALPHA_TEXT * step),
    }
    for name, queries in ways.items():
        scores = queries @ asked.gallery.T
        scores[np.arange(len(scores)), asked.references] = -np.inf  # the reference is no answer
        runs = {str(query): _run(row, asked.right[str(query)]) for query, row in enumerate(scores)}
        yield f"composed, {name}: AP@{DEEP}", measured("AP", asked.right, runs, DEEP)
        yield f"composed, {name}: recall@1", measured("Success", asked.right, runs, 1)


def _run(scores: NDArray[np.floating], right: dict[str, int]) -> dict[str, float]:
    """The first documents with scores that do not tie: of equals the wrong ones come first."""
    is_right = np.array([str(doc) in right for doc in range(len(scores))])
    order = np.lexsort((is_right, -scores))[:TOP]
    return {str(doc): float(-rank) for rank, doc in enumerate(order)}
