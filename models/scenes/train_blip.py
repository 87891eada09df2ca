"""How the captioner, the matcher and the detector are trained: together, over one vision tower.

The tower starts from a trained dual encoder's. The truth helps twice: the detector's loss teaches the tower what lies
in each grid cell and where, and marked words (which cells they speak of, whether their clause is true) teach both text
models where to look. True or false, and the next word, are the only losses of what is shipped.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .blip import Blip, save_blip, start_from_encoder
from .blip_data import BlipBatches, BlipRecipe
from .blip_losses import BlipHeads, losses
from .captions import WRONG, contrast
from .encoder import scale_pixels
from .render import render_array
from .sample import sample_scene
from .team import Team
from .tokens import PAD_ID
from .told import tell
from .training import Batch, Phase, Plan, Trainer, moved

WEIGHTS: dict[str, float] = {
    "cells": 0.5, "boxes": 4.0, "place": 0.3, "scene": 0.1,
    "write": 1.0, "next": 0.5, "match": 1.5, "word": 0.5, "noun": 0.5, "clause": 1.5,
}  # fmt: skip
"""What each loss of ``blip_losses`` counts."""


def blip_plan(plan: Plan) -> Plan:
    """The plan with what is particular to this model."""
    return replace(plan, batch=64, first_share=0.04, second_share=0.35, warm_steps=50, every_minutes=6.0, gallery=250)


class BlipTrainer(Trainer):
    """Trains the three models; ``start`` is the folder of a trained dual encoder, or ``None`` for nothing."""

    model: Blip
    heads: BlipHeads

    def __init__(
        self, out: Path, plan: Plan, device: str = "cpu", team: Team | None = None, start: Path | None = None
    ) -> None:
        self.start = start
        super().__init__(out, plan, device, team)

    def build(self) -> tuple[Blip, BlipHeads]:
        """The untrained models, over a tower that has seen scenes if there is one to start from."""
        self.model = Blip(self.plan.seed)
        if self.start is not None:
            start_from_encoder(self.model, self.start)
        config = self.model.config
        self.heads = BlipHeads(config.text_config.hidden_size, config.vision_config.hidden_size)
        return self.model, self.heads

    def trained_before(self, name: str) -> bool:
        """The tower's layers, if they are a dual encoder's; its embeddings have to learn new patches and places."""
        return self.start is not None and name.startswith("vision_model.encoder.")

    def batches(self, phase: Phase) -> BlipBatches:
        """Scenes with texts; small scenes and texts of one thing until words have found their cells."""
        whole = BlipRecipe(batch=self.plan.batch)
        easy = replace(whole, most=3, single=True, texts=4)
        return BlipBatches(whole if phase == "whole" else easy, self.first_scene)

    def loss(self, batch: Batch, phase: Phase) -> Tensor:
        """The weighted sum of all losses, or of those that the image alone decides."""
        found = losses(self.model, self.heads, batch, text=phase != "image")
        return torch.stack([WEIGHTS[name] * value for name, value in found.items()]).sum()

    @torch.inference_mode()
    def figures(self) -> dict[str, Any]:
        """The losses on a validation batch, how well cells are read, and wrong captions told from true ones."""
        batches = BlipBatches(BlipRecipe(batch=self.plan.gallery), split_name="validation")
        batch = moved(next(iter(batches)), self.device)
        found = losses(self.model, self.heads, batch)
        images = self.model.images(scale_pixels(batch["pixels"]))
        cells = self.model.detector.accuracy(images[:, 1:], batch["classes"])
        return {
            **{name: round(float(value), 4) for name, value in found.items()},
            **{f"cell {name}": round(value, 3) for name, value in cells.items()},
            **{f"wrong {what}": self._told_apart(what) for what in WRONG},
        }

    def _told_apart(self, what: str) -> float:
        """Share of validation scenes whose true caption scores above the one that is wrong by one claim."""
        scenes = [sample_scene(i, split_name="validation", things=(2, 4)) for i in range(self.plan.gallery)]
        pairs = [(scene, pair) for i, scene in enumerate(scenes) if (pair := contrast(scene, i, what))]
        pixels = torch.stack([torch.tensor(render_array(scene, self.model.side)) for scene, _ in pairs])
        images = self.model.images(scale_pixels(pixels.to(self.device)))
        scores = []
        for k in (0, 1):
            texts = [torch.tensor(tell(pair[k].query, scene).ids) for scene, pair in pairs]
            ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=PAD_ID).to(self.device)
            logits = self.model.match(ids, images)[0]
            scores.append(logits[:, 1] - logits[:, 0])
        return round((scores[0] > scores[1]).float().mean().item(), 3)

    def save_model(self, folder: Path) -> None:
        """Write the checkpoint in BLIP format."""
        save_blip(self.model, folder)
