"""The training loop that all models of the scene world share: budget, rates, checkpoints, the log of figures."""

from __future__ import annotations

import json
import logging
import math
import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from .muon import Muon
from .team import Team

log = logging.getLogger(__name__)
Batch = dict[str, Any]
Phase = Literal["image", "easy", "whole"]
"""What is trained: the image tower alone, then an easier task where a model has one, then everything."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how fast to train. The budget is ``minutes`` of wall clock, or ``steps`` where that is given.

    ``first_share`` of it goes to the image tower alone, and the part up to ``second_share`` to an easier task where the
    model has one; what is left after ``third_share`` is cut into ``waves`` of a lower rate, where a model knows them;
    ``rate`` and ``muon`` are the optimizers' peak rates;
    every ``every_minutes`` the model is tried on ``gallery`` validation scenes and saved.
    """

    minutes: float = 75.0
    steps: int | None = None
    seed: int = 0
    batch: int = 256
    first_share: float = 0.25
    second_share: float = 0.25
    third_share: float = 1.0
    waves: int = 0
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


class Trainer(ABC):
    """Trains, checks on validation scenes, writes checkpoints and the model's files into ``out``.

    A subclass gives it the model, the heads that help it, its batches, its loss and its figures.
    """

    def __init__(self, out: Path, plan: Plan, device: str = "cpu", team: Team | None = None) -> None:
        if not 0 <= plan.seed < 256:
            raise ValueError(f"the seed chooses one of 256 disjoint ranges of scenes, got {plan.seed}")
        self.out, self.plan, self.device, self.team = out, plan, torch.device(device), team or Team()
        model, heads = self.build()
        self.networks = {"model": model.to(self.device), "heads": heads.to(self.device)}
        self.optimizers = self._optimizers()
        self.state = State()
        self.phase: Phase = "image"
        self.counted = 0.0  # up to when the state's seconds are counted

    @abstractmethod
    def build(self) -> tuple[nn.Module, nn.Module]:
        """(the untrained model, heads that are thrown away afterwards)."""

    @abstractmethod
    def batches(self, phase: Phase) -> IterableDataset[Batch]:
        """Endless batches of a phase, from ``first_scene`` on."""

    @abstractmethod
    def loss(self, batch: Batch, phase: Phase) -> Tensor:
        """The loss of a phase's batch, a scalar."""

    @abstractmethod
    def figures(self) -> dict[str, Any]:
        """What the model reaches on validation scenes."""

    @abstractmethod
    def save_model(self, folder: Path) -> None:
        """Write the model's files."""

    @property
    def first_scene(self) -> int:
        """The first scene that this process of this seed has not seen yet."""
        return self.plan.seed * (1 << 32) + self.team.rank * (1 << 28) + self.state.samples // self.team.size

    def trained_before(self, name: str) -> bool:  # noqa: ARG002
        """Whether a parameter of that name starts from trained weights, so that small steps suffice."""
        return False

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon for the layers' new matrices, AdamW for all else. Each group keeps its peak rate."""
        plan = self.plan
        named = dict(self.networks["model"].named_parameters())
        before = [p for name, p in named.items() if self.trained_before(name)]
        taken = set(map(id, before))
        hidden = [
            p for name, p in named.items()
            if (".layers." in name or ".layer." in name) and p.ndim == 2 and id(p) not in taken
        ]  # fmt: skip
        taken |= set(map(id, hidden))
        rest = [p for p in (*named.values(), *self.networks["heads"].parameters()) if id(p) not in taken]
        groups = [
            {"params": [p for p in rest if p.ndim >= 2], "weight_decay": plan.decay},
            {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
            {"params": before, "weight_decay": 0.0, "lr": plan.rate / 4},
        ]
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=plan.rate, betas=(0.9, 0.98), fused=True),
            Muon(hidden, plan.muon),
        ]
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
        checked, self.counted = self.state.seconds, time.monotonic()
        ends: tuple[tuple[Phase, float], ...] = (
            ("image", self.plan.first_share), ("easy", self.plan.second_share), ("whole", 1.0),
        )  # fmt: skip
        for phase, end in ends:
            if self.done >= end:
                continue
            self.phase, batches = phase, self._load(phase)
            while self.done < end:
                losses.append(self._step(batches, phase))
                told = f"step {self.state.step} loss {sum(losses[-50:]) / len(losses[-50:]):.3f}"
                progress.update(bar, completed=min(self.done, 1.0), figures=told)
                if self.team.leads and self.state.seconds - checked > 60 * self.plan.every_minutes:
                    checked = self.state.seconds
                    self._check(losses)
                    self.counted = time.monotonic()
        if self.team.leads:
            self._check(losses)
        return losses

    def _load(self, phase: Phase) -> Iterator[Batch]:
        plan = self.plan
        loader: DataLoader[Batch] = DataLoader(
            self.batches(phase),
            batch_size=None,
            num_workers=plan.workers,
            prefetch_factor=4 if plan.workers else None,
        )
        return iter(loader)

    def _step(self, batches: Iterator[Batch], phase: Phase) -> float:
        batch = moved(next(batches), self.device)
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group in groups:
            group["lr"] = group["peak"] * self.warmth()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            loss = self.loss(batch, phase)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [p for group in groups for p in group["params"]]
        now = time.monotonic()
        self.state.seconds = self.team.average(parameters, self.state.seconds + now - self.counted)
        self.counted = now
        torch.nn.utils.clip_grad_norm_(parameters, 20.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.state.step += 1
        self.state.samples += len(batch["pixels"]) * self.team.size
        return float(loss.detach())

    def warmth(self) -> float:
        """The learning rate's factor."""
        return self.rise_and_fall(self.state.step, self.done)

    def rise_and_fall(self, step: int, done: float) -> float:
        """Linear warm-up over the first steps, then a cosine to zero as ``done`` goes to 1."""
        warm = min(1.0, (step + 1) / self.plan.warm_steps)
        return warm * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))

    def _check(self, losses: list[float]) -> None:
        """Figures on validation scenes, a checkpoint, and the model's files."""
        self.networks["model"].eval()
        figures: dict[str, Any] = {
            "step": self.state.step,
            "samples": self.state.samples,
            "seconds": round(self.state.seconds),
            "loss": round(sum(losses[-100:]) / max(len(losses[-100:]), 1), 4),
            **self.figures(),
        }
        self.state.history.append(figures)
        log.info("%s", json.dumps(figures))
        self.networks["model"].train()
        self.save()

    def save(self) -> None:
        """Write the checkpoint (whole or not at all) and the model's files."""
        self.out.mkdir(parents=True, exist_ok=True)
        checkpoint = {
            **{name: network.state_dict() for name, network in self.networks.items()},
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "state": asdict(self.state),
        }
        torch.save(checkpoint, self.out / "checkpoint.tmp")
        (self.out / "checkpoint.tmp").replace(self.out / "checkpoint.pt")
        self.save_model(self.out / "model")
        run = {"plan": asdict(self.plan), "hardware": self._hardware(), **asdict(self.state)}
        (self.out / "run.json").write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")

    def resume(self) -> None:
        """Go on from the checkpoint in ``out``. Raises ``FileNotFoundError`` where there is none."""
        checkpoint = torch.load(self.out / "checkpoint.pt", map_location=self.device, weights_only=True)
        for name, network in self.networks.items():
            network.load_state_dict(checkpoint[name])
        for optimizer, state in zip(self.optimizers, checkpoint["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.state = State(**checkpoint["state"])

    def _hardware(self) -> str:
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"{platform.machine()} CPU, {self.team.size} x {torch.get_num_threads()} threads, float32"


def moved(value: T, device: torch.device) -> T:
    """The same value with every tensor in it, in dicts and lists too, on the device."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)  # type: ignore[return-value]
    if isinstance(value, dict):
        return {name: moved(one, device) for name, one in value.items()}  # type: ignore[return-value]
    if isinstance(value, list):
        return [moved(one, device) for one in value]  # type: ignore[return-value]
    return value
