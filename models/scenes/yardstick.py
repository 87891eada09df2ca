"""``sightline eval scenes``: every figure of the shipped models on scenes that nobody trained on.

``python -m models.scenes.yardstick FOLDER --card RUN`` measures a captioner's folder instead, and writes its card.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from rich.progress import Progress, TaskID

from models.checkpoint import CAPTIONER_ID, JUDGE_ID, bundled_model

from .card import verify
from .evaluate import RENDERED, THINGS, Encoder, Shown, figures_of
from .evaluate import TARGETS as ENCODER_TARGETS
from .evaluate_blip import RERANKED, Models, Tell, evaluate_blip, write_blip_card
from .evaluate_blip import TARGETS as BLIP_TARGETS
from .recall import Figure, recall_at

_IN_CARD = ("matcher", "captioner", "detector", "unseen combinations, ", "true caption above one that is wrong by one")
SEEDS: Final = 1000
"""Seeds run from 0; each has scenes of its own."""


@dataclass(frozen=True, slots=True)
class Report:
    """Figures by name, the targets that some of them have, and whose figures are lacking."""

    where: str
    figures: dict[str, Figure]
    targets: dict[str, float]
    absent: tuple[str, ...]

    @property
    def missed(self) -> list[str]:
        """Targets that are not reached, those of absent models too."""
        return [name for name, target in self.targets.items() if not self._reached(name, target)]

    def _reached(self, name: str, target: float) -> bool:
        return name in self.figures and self.figures[name].value >= target

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON types."""
        return {
            "where": self.where,
            "figures": {n: {**f.to_json(), "target": self.targets.get(n)} for n, f in self.figures.items()},
            "absent": list(self.absent),
            "missed": self.missed,
        }


def report(seed: int, count: int = 1000, *, split: str = "test", blip: str = "bundled", tell: Tell) -> Report:
    """Measure the shipped models on the ``count`` scenes of a seed, in the split "test" or "validation".

    Args:
        seed: 0 to SEEDS - 1; scene ``seed * count`` of the split is the first.
        blip: the captioner's folder, or "bundled".
        tell: called with what is being done and the share of it that is done.

    Raises:
        ValueError: a seed or a count outside the range.
        WeightsRefused, ModelError: weights that are not those of their card.
    """
    if not 0 <= seed < SEEDS or not 1 <= count <= 100_000:
        raise ValueError(f"seed must be 0 to {SEEDS - 1} and count 1 to 100,000, got {seed} and {count}")
    numbers = range(seed * count, (seed + 1) * count)
    tell("rendering scenes", 0.0)
    shown, unseen = Shown.draw(split, numbers), Shown.draw("unseen", numbers)
    tell("dual encoder", 0.0)
    encoder = _encoder(bundled_model())
    images = encoder.images(shown.pictures)
    figures, targets = figures_of(encoder, shown, images, unseen), {**ENCODER_TARGETS, **BLIP_TARGETS}
    absent = []
    if blip != "bundled" or bundled_model(CAPTIONER_ID).is_dir():
        found, extra = evaluate_blip(Models.load(blip), encoder, shown, images, unseen, tell)
        figures |= found
        targets |= extra
    else:
        absent.append(CAPTIONER_ID)
        targets[RERANKED] = 1.0
    if bundled_model(JUDGE_ID).is_dir():
        tell("judge", 0.0)
        judge = _encoder(bundled_model(JUDGE_ID))
        scores = judge.texts(shown.captions) @ judge.images(shown.pictures).T
        figures["judge: text to image recall@1"] = recall_at(scores, 1)
        figures["judge: image to text recall@1"] = recall_at(scores.T, 1)
    else:
        absent.append(JUDGE_ID)
    where = (
        f"{count} scenes of the split {split}, from scene {numbers[0]}, {THINGS[0]}-{THINGS[1]} things, rendered at "
        f"{RENDERED} pixels. Ties count against us; 95 % intervals by bootstrap over queries (mAP: over classes)."
    )
    return Report(where, figures, targets, tuple(absent))


def _encoder(folder: Path) -> Encoder:
    verify(folder)
    return Encoder(folder)


def main(argv: list[str] | None = None) -> None:
    """The command line that writes the card of a freshly trained captioner."""
    parser = argparse.ArgumentParser(prog="python -m models.scenes.yardstick")
    parser.add_argument("folder", type=Path, help="where training wrote the captioner")
    parser.add_argument("--card", type=Path, required=True, metavar="RUN", help="the run.json of the training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    args = parser.parse_args(argv)
    with Progress() as bar:
        task = bar.add_task("loading", total=1.0)
        tell = partial(_show, bar, task)
        found = report(args.seed, args.count, blip=str(args.folder), tell=tell)
    told = {name: figure for name, figure in found.figures.items() if name.startswith(_IN_CARD)}
    write_blip_card(args.folder, json.loads(args.card.read_text(encoding="utf-8")), told, found.targets, found.where)


def _show(bar: Progress, task: TaskID, what: str, share: float) -> None:
    bar.update(task, description=what, completed=share)


if __name__ == "__main__":
    main()
