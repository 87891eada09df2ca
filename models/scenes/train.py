"""Train the dual encoder from nothing: ``python -m models.scenes.train --out DIR``.

First the image tower alone learns the known truth (what lies in each grid cell, which attribute pairs are present),
then both towers learn to agree (CLIP's loss) with that truth as a smaller helper. Plain contrastive training would
need many times as many samples. The heads that read the truth are thrown away.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import CLIPModel

from .captions import caption
from .dataset import Batches, Recipe
from .encoder import build_encoder, encode_scenes, encode_texts, image_parts, save_encoder, scale_pixels, text_embedding
from .losses import Heads, contrastive
from .muon import Muon
from .recall import recall_at
from .sample import sample_scene

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how fast to train. The budget is ``minutes`` of wall clock, or ``steps`` where that is given.

    ``first_share`` of it goes to the image tower alone; ``rate`` and ``muon`` are the optimizers' peak rates;
    every ``every_minutes`` the model is tried on ``gallery`` validation scenes and saved.
    """

    minutes: float = 75.0
    steps: int | None = None
    seed: int = 0
    batch: int = 256
    first_share: float = 0.25
    rate: float = 1.2e-3
    muon: float = 0.02
    warm_steps: int = 200
    decay: float = 0.05
    edited: float = 0.25
    every_minutes: float = 4.0
    gallery: int = 500
    workers: int = 1


@dataclass
class State:
    """What a checkpoint holds besides weights: steps, samples and seconds so far, and the log of figures."""

    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


class Trainer:
    """Trains, checks on validation scenes, writes checkpoints and the model's files into ``out``."""

    def __init__(self, out: Path, plan: Plan, device: str = "cpu") -> None:
        if not 0 <= plan.seed < 256:
            raise ValueError(f"the seed chooses one of 256 disjoint ranges of scenes, got {plan.seed}")
        self.out, self.plan, self.device = out, plan, torch.device(device)
        self.model: CLIPModel = build_encoder(plan.seed).to(self.device)
        config = self.model.config
        self.heads = Heads(config.vision_config.hidden_size, config.projection_dim).to(self.device)
        self.optimizers = self._optimizers()
        self.state = State()

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon for the layers' matrices, AdamW for all else. Each group keeps its peak rate."""
        plan = self.plan
        hidden = [p for name, p in self.model.named_parameters() if ".layers." in name and p.ndim == 2]
        taken = set(map(id, hidden))
        rest = [p for p in (*self.model.parameters(), *self.heads.parameters()) if id(p) not in taken]
        groups = [
            {"params": [p for p in rest if p.ndim >= 2], "weight_decay": plan.decay},
            {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizers = [torch.optim.AdamW(groups, lr=plan.rate, betas=(0.9, 0.98), fused=True), Muon(hidden, plan.muon)]
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["peak"] = group["lr"]
        return optimizers

    @property
    def done(self) -> float:
        """Share of the budget that is used up."""
        if self.plan.steps is not None:
            return self.state.step / self.plan.steps
        return self.state.seconds / (60 * self.plan.minutes)

    def run(self, progress: Progress) -> list[float]:
        """Train to the end of the budget; returns the loss of every step."""
        bar = progress.add_task("train", total=1.0, figures="")
        losses: list[float] = []
        checked = self.state.seconds
        for joint in (False, True):
            end = 1.0 if joint else self.plan.first_share
            batches = self._batches(joint) if self.done < end else iter(())
            while self.done < end:
                begun = time.monotonic()
                losses.append(self._step(next(batches), joint))
                self.state.seconds += time.monotonic() - begun
                told = f"step {self.state.step} loss {sum(losses[-50:]) / len(losses[-50:]):.3f}"
                progress.update(bar, completed=min(self.done, 1.0), figures=told)
                if self.state.seconds - checked > 60 * self.plan.every_minutes:
                    checked = self.state.seconds
                    self._check(losses)
        self._check(losses)
        return losses

    def _batches(self, joint: bool) -> Iterator[dict[str, Tensor]]:
        plan = self.plan
        recipe = Recipe(batch=plan.batch, text=joint, edited=plan.edited if joint else 0.0)
        first = plan.seed * (1 << 32) + self.state.samples
        loader = DataLoader(
            Batches(recipe, first),
            batch_size=None,
            num_workers=plan.workers,
            prefetch_factor=4 if plan.workers else None,
        )
        return iter(loader)

    def _step(self, batch: dict[str, Tensor], joint: bool) -> float:
        batch = {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group in groups:
            group["lr"] = group["peak"] * self._warmth()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            loss = self._joint_loss(batch) if joint else self._first_loss(batch)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], 20.0)
        for optimizer in self.optimizers:
            optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(max=math.log(100))
        self.state.step += 1
        self.state.samples += len(batch["pixels"])
        return float(loss.detach())

    def _warmth(self) -> float:
        """The learning rate's factor: linear warm-up, then a cosine to zero over the whole budget."""
        warm = min(1.0, (self.state.step + 1) / self.plan.warm_steps)
        return warm * 0.5 * (1 + math.cos(math.pi * min(self.done, 1.0)))

    def _first_loss(self, batch: dict[str, Tensor]) -> Tensor:
        image, tokens = image_parts(self.model, scale_pixels(batch["pixels"]))
        heads = self.heads
        loss = heads.cell_loss(tokens, batch["cells"]) + 0.1 * heads.pair_loss(image, batch["things"])
        total: Tensor = loss + 0.3 * heads.scene_loss(image, batch["scene"])
        return total

    def _joint_loss(self, batch: dict[str, Tensor]) -> Tensor:
        image, tokens = image_parts(self.model, scale_pixels(batch["pixels"]))
        text = text_embedding(self.model, batch["ids"])
        loss = contrastive(image, text, self.model.logit_scale.exp(), batch["also"])
        heads, whole = self.heads, batch["complete"]
        loss = loss + 0.3 * heads.cell_loss(tokens, batch["cells"])
        loss = loss + 0.03 * heads.pair_loss(image, batch["things"])
        loss = loss + 0.03 * heads.pair_loss(text[whole], batch["things"][whole])
        total: Tensor = loss + 0.05 * heads.scene_loss(image, batch["scene"])
        return total

    def _check(self, losses: list[float]) -> None:
        """Figures on validation scenes, a checkpoint, and the model's files."""
        self.model.eval()
        gallery = self.plan.gallery
        scenes = [sample_scene(i, split_name="validation", things=(2, 4)) for i in range(gallery)]
        image = encode_scenes(self.model, scenes)
        text = encode_texts(self.model, [caption(s, "full", i).text for i, s in enumerate(scenes)])
        scores = (text @ image.T).numpy()
        figures: dict[str, Any] = {
            "step": self.state.step,
            "samples": self.state.samples,
            "seconds": round(self.state.seconds),
            "loss": round(sum(losses[-100:]) / max(len(losses[-100:]), 1), 4),
            "scale": round(self.model.logit_scale.exp().item(), 2),
            f"recall@1 of {gallery}": recall_at(scores, 1).value,
            f"recall@10 of {gallery}": recall_at(scores, 10).value,
            f"image to text recall@1 of {gallery}": recall_at(scores.T, 1).value,
        }
        figures |= self._cells()
        self.state.history.append(figures)
        log.info("%s", json.dumps(figures))
        self.model.train()
        self.save()

    @torch.inference_mode()
    def _cells(self) -> dict[str, float]:
        batch = next(iter(Batches(Recipe(text=False), split_name="validation")))
        _, tokens = image_parts(self.model, scale_pixels(batch["pixels"].to(self.device)))
        accuracy = self.heads.cell_accuracy(tokens, batch["cells"].to(self.device))
        return {f"cell {name}": round(value, 3) for name, value in accuracy.items()}

    def save(self) -> None:
        """Write the checkpoint (whole or not at all) and the model's files."""
        self.out.mkdir(parents=True, exist_ok=True)
        checkpoint = {
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "state": asdict(self.state),
        }
        torch.save(checkpoint, self.out / "checkpoint.tmp")
        (self.out / "checkpoint.tmp").replace(self.out / "checkpoint.pt")
        save_encoder(self.model, self.out / "model")
        run = {"plan": asdict(self.plan), "hardware": self._hardware(), **asdict(self.state)}
        (self.out / "run.json").write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")

    def resume(self) -> None:
        """Go on from the checkpoint in ``out``. Raises ``FileNotFoundError`` where there is none."""
        checkpoint = torch.load(self.out / "checkpoint.pt", map_location=self.device, weights_only=True)
        self.model.load_state_dict(checkpoint["model"])
        self.heads.load_state_dict(checkpoint["heads"])
        for optimizer, state in zip(self.optimizers, checkpoint["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.state = State(**checkpoint["state"])

    def _hardware(self) -> str:
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"{platform.machine()} CPU, {torch.get_num_threads()} threads, float32"


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m models.scenes.train", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint and the model")
    parser.add_argument("--minutes", type=float, default=Plan().minutes, help="wall-clock budget")
    parser.add_argument("--steps", type=int, help="budget in steps, instead of minutes")
    parser.add_argument("--seed", type=int, default=0, help="another seed sees other scenes and starts elsewhere")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of torch")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw scenes")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(args.threads)
    plan = Plan(minutes=args.minutes, steps=args.steps, seed=args.seed, workers=args.workers)
    trainer = Trainer(args.out, plan, args.device)
    if args.resume:
        trainer.resume()
    figures = TextColumn("{task.fields[figures]}")
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), figures)
    with Progress(*columns) as progress:
        trainer.run(progress)


if __name__ == "__main__":
    main()
