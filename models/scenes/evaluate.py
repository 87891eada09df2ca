"""Figures of a dual encoder on any range of scenes: ``python -m models.scenes.evaluate FOLDER``.

The folder is loaded as any Hugging Face CLIP model is, and sees scenes rendered at 224 pixels through its own image
processor. Tie rule: an item ranks behind every other item of the same score. Intervals: percentile bootstrap over the
queries, 95 %.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

from .captions import WRONG, caption, contrast
from .card import Card, verify, write_card
from .query import Query
from .recall import Figure, figure, recall_at
from .render import render
from .sample import sample_scene, twin
from .scene import Scene

TARGETS: Final = {
    "text to image recall@1": 0.60,
    "text to image recall@10": 0.92,
    "image to text recall@1": 0.60,
    "image to twin recall@1": 0.90,
}
RENDERED = 224
THINGS = (2, 4)
NAME = "scenes-dual-encoder"

Vectors = NDArray[np.float32]


class Encoder:
    """A checkpoint in Hugging Face CLIP format, used with nothing but transformers."""

    def __init__(self, folder: Path) -> None:
        self.model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.processor = CLIPImageProcessor.from_pretrained(folder)

    @torch.inference_mode()
    def images(self, pictures: Sequence[Image.Image], batch: int = 100) -> Vectors:
        """Unit vectors (N, D) of pictures."""
        out = []
        for start in range(0, len(pictures), batch):
            pixels = self.processor(images=list(pictures[start : start + batch]), return_tensors="pt")["pixel_values"]
            pooled = self.model.vision_model(pixel_values=pixels).pooler_output
            out.append(torch.nn.functional.normalize(self.model.visual_projection(pooled), dim=-1).numpy())
        return np.concatenate(out)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str], batch: int = 100) -> Vectors:
        """Unit vectors (N, D) of texts."""
        out = []
        for start in range(0, len(texts), batch):
            tokens = self.tokenizer(
                list(texts[start : start + batch]), padding=True, truncation=True, return_tensors="pt"
            )
            pooled = self.model.text_model(**tokens).pooler_output
            out.append(torch.nn.functional.normalize(self.model.text_projection(pooled), dim=-1).numpy())
        return np.concatenate(out)


@dataclass(frozen=True, slots=True)
class Shown:
    """Scenes of a split, by number, with their pictures and one full caption each."""

    numbers: range
    scenes: list[Scene]
    pictures: list[Image.Image]
    captions: list[str]

    @classmethod
    def draw(cls, split: str, numbers: range, condition: str = "uniform") -> Shown:
        """Scenes with THINGS, rendered at RENDERED pixels."""
        scenes = [sample_scene(i, condition_name=condition, split_name=split, things=THINGS) for i in numbers]
        captions = [caption(scene, "full", i).text for i, scene in zip(numbers, scenes, strict=True)]
        return cls(numbers, scenes, pictures(scenes), captions)

    def contrasts(self, what: str) -> tuple[list[int], list[str], list[str]]:
        """(places of scenes, a true caption of each, the same with one claim of that kind wrong)."""
        found = [(k, contrast(self.scenes[k], i, what)) for k, i in enumerate(self.numbers)]
        there = [(k, pair) for k, pair in found if pair is not None]
        return [k for k, _ in there], [true.text for _, (true, _) in there], [wrong.text for _, (_, wrong) in there]


def pictures(scenes: Sequence[Scene]) -> list[Image.Image]:
    """The scenes at RENDERED pixels."""
    return [render(scene, RENDERED) for scene in scenes]


def evaluate(
    folder: Path, *, split: str = "test", condition: str = "uniform", first: int = 0, count: int = 1000
) -> dict[str, Figure]:
    """Every figure of the dual encoder in ``folder`` on ``count`` scenes of a split, from scene ``first``."""
    numbers = range(first, first + count)
    shown = Shown.draw(split, numbers, condition)
    encoder = Encoder(folder)
    return figures_of(encoder, shown, encoder.images(shown.pictures), Shown.draw("unseen", numbers))


def figures_of(encoder: Encoder, shown: Shown, images: Vectors, unseen: Shown) -> dict[str, Figure]:
    """The same for scenes that are drawn and encoded already."""
    scores = encoder.texts(shown.captions) @ images.T
    figures = {
        "text to image recall@1": recall_at(scores, 1),
        "text to image recall@10": recall_at(scores, 10),
        "image to text recall@1": recall_at(scores.T, 1),
        "image to text recall@10": recall_at(scores.T, 10),
    }
    twins = encoder.images(pictures([twin(s, i) for i, s in zip(shown.numbers, shown.scenes, strict=True)]))
    figures["image to twin recall@1"] = recall_at(images @ twins.T, 1)
    figures |= _short(encoder, shown.scenes, images, shown.numbers)
    figures |= _wrong(encoder, shown, images)
    scores = encoder.texts(unseen.captions) @ encoder.images(unseen.pictures).T
    figures["unseen combinations: text to image recall@1"] = recall_at(scores, 1)
    figures["unseen combinations: text to image recall@10"] = recall_at(scores, 10)
    return figures


def _short(encoder: Encoder, scenes: Sequence[Scene], images: Vectors, seeds: range) -> dict[str, Figure]:
    """Short searches, by what they ask: is the first hit right by the truth; and right among five, as far as possible.

    The latter divides the right ones among the first five by five, or by the number of right scenes if that is less.
    """
    asked = [caption(scene, "short", i) for i, scene in zip(seeds, scenes, strict=True)]
    order = np.argsort(-(encoder.texts([c.text for c in asked]) @ images.T), axis=1, kind="stable")[:, :5]
    right = np.array([[c.query.matches(scenes[j]) for j in row] for c, row in zip(asked, order, strict=True)])
    there = np.array([sum(c.query.matches(scene) for scene in scenes) for c in asked])
    out = {"short searches: right among five": figure(right.sum(axis=1) / np.minimum(there, 5))}
    sorts = np.array([_sort(c.query) for c in asked])
    for sort in ("a thing", "a number", "a relation", "a word"):
        if (sorts == sort).any():
            out[f"short searches for {sort}: first hit right"] = figure(right[sorts == sort, 0])
    return out


def _sort(query: Query) -> str:
    if query.word is not None:
        return "a word"
    if query.relation is not None:
        return "a relation"
    return "a thing" if query.claims[0].count is None else "a number"


def _wrong(encoder: Encoder, shown: Shown, images: Vectors) -> dict[str, Figure]:
    """Share of scenes whose true caption scores above the same one with one wrong claim; a tie counts as wrong."""
    out, all_hits = {}, []
    for what in WRONG:
        places, *texts = shown.contrasts(what)
        true, wrong = ((encoder.texts(told) * images[places]).sum(axis=1) for told in texts)
        all_hits.append(true > wrong)
        out[f"true caption above one of a wrong {what}"] = figure(all_hits[-1])
    out["true caption above one that is wrong by one claim"] = figure(np.concatenate(all_hits))
    return out


_TASKS: Final = {
    NAME: "A small dual encoder (CLIP format) of sightline's bundled world of rendered scenes: the model of the"
    " embedded demo, of the tests and of the recipes' yardstick. It knows this world and nothing else.",
    "scenes-judge": "A second dual encoder (CLIP format) of sightline's bundled world, trained apart from the first on"
    " other scenes: the judge in evaluations, so that no model marks its own work.",
}


def add_to_card(folder: Path, run: dict[str, Any], figures: dict[str, Figure], where: str) -> None:
    """Write the card of freshly trained weights from the run's log (its "remarks", if any, join the limits)."""
    told = {name: {**value.to_json(), "target": TARGETS.get(name)} for name, value in figures.items()}
    name = folder.name if folder.name in _TASKS else NAME
    card = Card(
        name=name,
        task=_TASKS[name],
        data="Fresh scenes of models/scenes, condition uniform, split train, 1-6 things, English captions; each"
        " rendered scene is used about three times with other captions. 12 colour x shape pairs are held out.",
        steps=run["step"],
        samples=run["samples"],
        seconds=round(run["seconds"]),
        hardware=run["hardware"],
        seed=run["plan"]["seed"],
        libraries={"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__},
        figures=told,
        evaluated=where,
        limits=(
            "Only drawn scenes of this world: photographs and other words give meaningless vectors.",
            "English only; German and Spanish words have tokens, but untrained ones. Unknown words become <unk>.",
            "The renderer's truth helped in training: how little data it needed says nothing of plain CLIP training.",
            *run.get("remarks", ()),
        ),
    )
    write_card(folder, card)


def show(figures: dict[str, Figure], console: Console, where: str) -> None:
    """Print the figures as a table, with their targets."""
    table = Table(title=where)
    for head in ("what", "value", "95 % interval", "queries", "target"):
        table.add_column(head)
    for name, value in figures.items():
        target = TARGETS.get(name)
        told = "" if target is None else f">= {target:.2f} {'met' if value.value >= target else 'missed'}"
        table.add_row(name, f"{value.value:.3f}", f"{value.low:.3f}-{value.high:.3f}", str(value.n), told)
    console.print(table)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns 1 for a missed target under ``--check``."""
    parser = argparse.ArgumentParser(prog="python -m models.scenes.evaluate")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", default="test", help="validation, test or unseen")
    parser.add_argument("--condition", default="uniform")
    parser.add_argument("--first", type=int, default=0, help="index of the first scene")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true", help="exit 1 on a missed target")
    parser.add_argument("--card", type=Path, metavar="RUN", help="write the card, from the run.json of the training")
    args = parser.parse_args(argv)
    transformers.utils.logging.disable_progress_bar()
    if args.card is None:
        verify(args.folder)
    figures = evaluate(args.folder, split=args.split, condition=args.condition, first=args.first, count=args.count)
    where = (
        f"{args.count} scenes of {args.condition}, split {args.split}, from scene {args.first}, {THINGS[0]}-{THINGS[1]}"
        f" things, rendered at {RENDERED} pixels. Ties count against us; intervals by bootstrap."
    )
    if args.card is not None:
        add_to_card(args.folder, json.loads(args.card.read_text(encoding="utf-8")), figures, where)
    console = Console()
    if args.json:
        console.print_json(data={name: value.to_json() for name, value in figures.items()})
    else:
        show(figures, console, where)
    missed = [name for name, target in TARGETS.items() if figures[name].value < target]
    return 1 if args.check and missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
