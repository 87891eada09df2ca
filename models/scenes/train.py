"""Train a model of the bundled world from nothing: ``python -m models.scenes.train --out DIR [--model captioner]``.

``dual-encoder`` is the one that searches, and with another ``--seed`` the judge. ``captioner`` is the captioner with
the matcher and the detector; its vision tower starts from ``--start``, a trained dual encoder (by default the shipped
one, which the first command reproduces; ``--start none`` starts from nothing).
"""

from __future__ import annotations

import argparse
import logging
from functools import partial
from pathlib import Path

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from .team import Team, together
from .train_blip import BlipTrainer, blip_plan
from .train_encoder import EncoderTrainer
from .training import Plan, Trainer

SHIPPED = Path(__file__).parents[1] / "weights" / "scenes-dual-encoder"


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m models.scenes.train", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint and the model")
    parser.add_argument("--model", choices=("dual-encoder", "captioner"), default="dual-encoder")
    parser.add_argument("--minutes", type=float, default=Plan().minutes, help="wall-clock budget")
    parser.add_argument("--steps", type=int, help="budget in steps, instead of minutes")
    parser.add_argument("--seed", type=int, default=0, help="another seed sees other scenes and starts elsewhere")
    parser.add_argument("--start", default=str(SHIPPED), help="dual encoder that a captioner starts from, or 'none'")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of torch")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw scenes, for each that trains")
    parser.add_argument(
        "--processes", type=int, default=1, help="processes that train, each with a batch and one thread"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    args = parser.parse_args(argv)
    together(args.processes, partial(train, args))


def train(args: argparse.Namespace, team: Team) -> None:
    """Train as the command line says, as one of a team."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if team.size == 1:
        torch.set_num_threads(args.threads)
    plan = Plan(minutes=args.minutes, steps=args.steps, seed=args.seed, workers=args.workers)
    trainer: Trainer
    if args.model == "captioner":
        start = None if args.start == "none" else Path(args.start)
        trainer = BlipTrainer(args.out, blip_plan(plan), args.device, team, start)
    else:
        trainer = EncoderTrainer(args.out, plan, args.device, team)
    if args.resume:
        trainer.resume()
    figures = TextColumn("{task.fields[figures]}")
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), figures)
    with Progress(*columns, disable=not team.leads) as progress:
        trainer.run(progress)


if __name__ == "__main__":
    main()
