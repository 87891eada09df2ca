"""Figures of the captioner, the matcher and the detector, loaded as they are served."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from models.captioner import FULL_PROMPT, BlipCaptioner, load_captioner
from models.detector import SceneDetector, load_detector
from models.matcher import BlipMatcher, load_matcher
from models.protocols import Decoding

from .captions import WRONG
from .card import Card, write_card
from .detection import counted, mean_average_precision
from .evaluate import Encoder, Shown, Vectors
from .naming import naming
from .recall import Figure, figure, hits_at, recall_at

TARGETS: Final = {
    "matcher: true caption above one that is wrong by one claim": 0.95,
    "captioner: share of objects named right": 0.90,
    "captioner: precision of what it names": 0.90,
    "detector: mAP@0.5 of shape and colour": 0.85,
}
RERANKED: Final = "matcher reranks the first 50: text to image recall@1"
TOP: Final = 50
_MOST: Final = Decoding(max_tokens=76)
_BATCH: Final = 50

Tell = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Models:
    """The three models of one checkpoint, on the CPU."""

    captioner: BlipCaptioner
    matcher: BlipMatcher
    detector: SceneDetector

    @classmethod
    def load(cls, model: str = "bundled") -> Models:
        """Load them as users do; weights that are not those of their card are refused."""
        return cls(load_captioner(model, device="cpu"), load_matcher(model, device="cpu"), load_detector(model, "cpu"))


def evaluate_blip(
    models: Models, encoder: Encoder, shown: Shown, images: Vectors, unseen: Shown, tell: Tell
) -> tuple[dict[str, Figure], dict[str, float]]:
    """(every figure, the target of reranking by its name).

    ``encoder`` and its vectors ``images`` of the shown scenes choose what the matcher reranks; ``tell`` is called with
    what is being done and the share of it that is done.
    """
    pixels = [models.detector.prepare_image(np.asarray(picture)) for picture in shown.pictures]
    others = [models.detector.prepare_image(np.asarray(picture)) for picture in unseen.pictures]
    tokens = torch.cat([models.matcher.see(part) for part in _parts(pixels, "matcher: images", tell)])
    figures = _told_apart(models.matcher, shown, tokens)
    reranked, target = _reranked(models.matcher, encoder, shown, images, tokens, tell)
    figures[RERANKED] = reranked
    figures |= _captions(models.captioner, shown, pixels, "captioner", FULL_PROMPT, tell)
    figures |= _captions(models.captioner, shown, pixels, "captioner, not asked for everything", None, tell)
    for name, scenes, seen in (("detector", shown, pixels), ("unseen combinations, detector", unseen, others)):
        found = [one for part in _parts(seen, "detector", tell) for one in models.detector.detect(part)]
        figures[f"{name}: mAP@0.5 of shape and colour"] = mean_average_precision(found, scenes.scenes)
        figures[f"{name}: as many things found as there are"] = counted(found, scenes.scenes)
    figures |= _captions(models.captioner, unseen, others, "unseen combinations, captioner", FULL_PROMPT, tell)
    return figures, {RERANKED: target}


def _parts(values: Sequence[Any], what: str, tell: Tell) -> Iterator[Any]:
    for start in range(0, len(values), _BATCH):
        tell(what, start / len(values))
        yield values[start : start + _BATCH]
    tell(what, 1.0)


def _log_odds(matcher: BlipMatcher, texts: Sequence[str], tokens: torch.Tensor) -> NDArray[np.float32]:
    """Log-odds of each text with the image in the same place."""
    prepared = [matcher.prepare(text, "candidate").value for text in texts]
    order = sorted(range(len(texts)), key=lambda k: len(prepared[k].ids))
    out = np.empty(len(texts), np.float32)
    for start in range(0, len(order), _BATCH):
        part = order[start : start + _BATCH]
        out[part] = matcher.log_odds([prepared[k] for k in part], tokens[part])
    return out


def _told_apart(matcher: BlipMatcher, shown: Shown, tokens: torch.Tensor) -> dict[str, Figure]:
    """Share of scenes whose true caption scores above the same one with one wrong claim; a tie counts as wrong.

    Beside it, how many of these captions fall on the right side of even odds.
    """
    out: dict[str, Figure] = {}
    above: list[NDArray[np.bool_]] = []
    sides: list[NDArray[np.bool_]] = []
    for what in WRONG:
        places, *texts = shown.contrasts(what)
        true, wrong = (_log_odds(matcher, told, tokens[places]) for told in texts)
        above.append(true > wrong)
        sides += [true > 0, wrong < 0]
        out[f"matcher: true caption above one of a wrong {what}"] = figure(above[-1])
    out["matcher: true caption above one that is wrong by one claim"] = figure(np.concatenate(above))
    out["matcher: captions judged right at even odds"] = figure(np.concatenate(sides))
    return out


def _reranked(
    matcher: BlipMatcher, encoder: Encoder, shown: Shown, images: Vectors, tokens: torch.Tensor, tell: Tell
) -> tuple[Figure, float]:
    """(recall@1 once the matcher has reranked the encoder's first TOP, its target).

    As BLIP's own retrieval does, the score is the matcher's plus the encoder's, each in nats. The target is 0.15 above
    the encoder, or half the gap to its recall among TOP if that is less.
    """
    scores = encoder.texts(shown.captions) @ images.T
    first, reach = recall_at(scores, 1).value, recall_at(scores, TOP).value
    temperature = encoder.model.logit_scale.exp().item()
    hits = []
    for query, text in enumerate(shown.captions):
        if query % 20 == 0:
            tell("matcher: reranking", query / len(shown.captions))
        top = np.argsort(-scores[query], kind="stable")[:TOP]
        value = matcher.prepare(text, "query").value
        odds = matcher.log_odds([value] * len(top), tokens[top]) + temperature * scores[query, top]
        own = np.flatnonzero(top == query)
        hits.append(hits_at(odds[None], np.array([own[0] if len(own) else -1]), 1))
    tell("matcher: reranking", 1.0)
    return figure(np.concatenate(hits)), first + min(0.15, (reach - first) / 2)


def _captions(
    captioner: BlipCaptioner, shown: Shown, pixels: Sequence[Any], name: str, prompt: str | None, tell: Tell
) -> dict[str, Figure]:
    """What greedy captions name, with all four attributes and with colour and shape alone."""
    texts = [
        caption.text for part in _parts(pixels, f"{name}: captions", tell)
        for caption in captioner.caption(part, prompt, _MOST)
    ]  # fmt: skip
    recall, precision = naming(texts, shown.scenes)
    out = {f"{name}: share of objects named right": figure(recall)}
    out[f"{name}: precision of what it names"] = figure(precision)
    recall, precision = naming(texts, shown.scenes, ("colour", "shape"))
    out[f"{name}: share named right by colour and shape alone"] = figure(recall)
    out[f"{name}: precision of colour and shape alone"] = figure(precision)
    return out


def write_blip_card(
    folder: Path, run: dict[str, Any], figures: dict[str, Figure], targets: dict[str, float], where: str
) -> None:
    """Write the card of freshly trained weights from the run's log (its "remarks", if any, join the limits)."""
    told = {name: {**value.to_json(), "target": targets.get(name)} for name, value in figures.items()}
    card = Card(
        name="scenes-captioner",
        task="A small captioner, image-text matcher (both BLIP format) and detector over one vision tower, of"
        " sightline's bundled world of rendered scenes. Plain captions are vague; a prompt token asks for everything.",
        data="Fresh scenes of models/scenes, condition uniform, split train, 1-6 things, English texts; each rendered"
        " scene is used about three times with other texts. 70 % vague captions and 30 % full ones, 12 % without the"
        " image. 12 colour x shape pairs are held out. The vision tower starts from scenes-dual-encoder.",
        steps=run["step"],
        samples=run["samples"],
        seconds=round(run["seconds"]),
        hardware=run["hardware"],
        seed=run["plan"]["seed"],
        libraries={"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__},
        figures=told,
        evaluated=where,
        limits=(
            "Only drawn scenes of this world: photographs and other words give meaningless answers.",
            "English only. Unknown words become <unk>, and are refused in prompts.",
            "A wrong number of shapes in a full caption can be told from the text alone, which also lists the shapes.",
            "The cosine mode of BlipForImageTextRetrieval (use_itm_head=False) is untrained; its projections are zero.",
            "Without the image (tokens of zeros) the captioner gives the unconditional probabilities.",
            "The renderer's truth helped in training, and the detector reads the grid that scenes are drawn on.",
            *run.get("remarks", ()),
        ),
    )
    write_card(folder, card)
