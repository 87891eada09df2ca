"""How the captioner, the matcher and the detector are trained: over one vision tower.

First the tower and the detector, from what lies in each grid cell and where; the tower's layers start from a trained
dual encoder's. Then, over the finished tower, the two text models. There the truth teaches attention where to look
(``pointing``) and marked words what to know; true or false, and the next word, are the losses of what is shipped.

Last come waves: the rate rises once more, to a third, and falls, several times. What is written is the mean of the
weights at the end of each fall (stochastic weight averaging: Izmailov et al. 2018, arXiv 1803.05407).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from .blip import Blip, save_blip, start_from_encoder
from .blip_data import BlipBatches, BlipRecipe
from .blip_losses import BlipHeads, image_losses, match_losses, write_losses
from .captions import WRONG, contrast
from .encoder import scale_pixels
from .pointing import Attention
from .render import render_array
from .sample import sample_scene
from .team import Team
from .tokens import PAD_ID
from .told import tell
from .training import Batch, Phase, Plan, Trainer, moved

WEIGHTS: dict[str, float] = {
    "cells": 0.5, "boxes": 4.0, "place": 0.3, "scene": 0.1,
    "write": 1.0, "next": 0.2, "look next": 0.3,
    "match": 1.5, "pair": 1.0, "word": 0.2, "noun": 0.5, "clause": 1.5,
    "look word": 0.3, "look noun": 0.3, "look adjective": 0.2, "look link": 0.3, "look false": 0.2,
}  # fmt: skip
"""What each loss of ``blip_losses`` counts."""
WAVE_HEIGHT = 0.35
"""Of a wave's rate, against the peak rate."""


def blip_plan(plan: Plan) -> Plan:
    """The plan with what is particular to this model."""
    return replace(
        plan, batch=64, first_share=0.23, second_share=0.27, third_share=0.77, waves=3, warm_steps=50, gallery=250
    )


class BlipTrainer(Trainer):
    """Trains the three models; ``start`` is the folder of a trained dual encoder, or ``None`` for nothing."""

    model: Blip
    heads: BlipHeads
    matching: Attention
    writing: Attention
    mean: AveragedModel

    def __init__(
        self, out: Path, plan: Plan, device: str = "cpu", team: Team | None = None, start: Path | None = None
    ) -> None:
        self.start = start
        self._first_text: int | None = None
        super().__init__(out, plan, device, team)
        self.networks["mean"] = self.mean.to(self.device)

    def build(self) -> tuple[Blip, BlipHeads]:
        """The untrained models, over a tower that has seen scenes if there is one to start from."""
        self.model = Blip(self.plan.seed)
        if self.start is not None:
            start_from_encoder(self.model, self.start)
        self.mean = AveragedModel(self.model)
        config = self.model.config
        self.heads = BlipHeads(config.text_config.hidden_size, config.vision_config.hidden_size)
        many = config.text_config.num_attention_heads
        self.matching = Attention(self.model.text_encoder.encoder.layer, many)
        self.writing = Attention(self.model.text_decoder.bert.encoder.layer, many)
        return self.model, self.heads

    def trained_before(self, name: str) -> bool:
        """The tower's layers, if they are a dual encoder's; its embeddings have to learn new patches and places."""
        return self.start is not None and name.startswith("vision_model.encoder.")

    def batches(self, phase: Phase) -> BlipBatches:
        """Scenes, later with texts; first small scenes and texts of one thing, until words have found their cells."""
        whole = BlipRecipe(batch=self.plan.batch, texts=2, pairs=0.5)
        recipes = {
            "image": replace(whole, texts=0, pairs=0.0, usual=0.5, reuse=3),
            "easy": replace(whole, most=3, single=True, texts=4, pairs=0.0),
            "whole": whole,
        }
        return BlipBatches(recipes[phase], self.first_scene)

    def warmth(self) -> float:
        """A warm-up and a cosine for the image, another for the texts, and lower ones for the waves."""
        plan, step = self.plan, self.state.step
        if self.phase == "image":
            return self.rise_and_fall(step, self.done / plan.first_share)
        if self._first_text is None:
            self._first_text = step
        if not self.falls:
            done = (self.done - plan.first_share) / (plan.third_share - plan.first_share)
            return self.rise_and_fall(step - self._first_text, done)
        return WAVE_HEIGHT * self.rise_and_fall(step, self._waves % 1.0)

    @property
    def _waves(self) -> float:
        """How many waves have passed; negative before the first."""
        plan = self.plan
        return (self.done - plan.third_share) / (1 - plan.third_share) * plan.waves if plan.waves else self.done - 1

    @property
    def falls(self) -> int:
        """How often the rate has come down to zero by now: before the waves, and with each of them."""
        return max(0, math.floor(self._waves) + 1)

    def _step(self, batches: Iterator[Batch], phase: Phase) -> float:
        before = self.falls
        loss = super()._step(batches, phase)
        if self.falls > before:
            self.mean.update_parameters(self.model)
        return loss

    def loss(self, batch: Batch, phase: Phase) -> Tensor:
        """The weighted sum of a phase's losses: those of the image, or those of the texts."""
        pixels = scale_pixels(batch["pixels"])
        if phase == "image":
            found = image_losses(self.model, self.heads, batch, self.model.images(pixels))
        else:
            with torch.no_grad():
                images = self.model.images(pixels)
            found = self._text_losses(batch, images)
        return torch.stack([WEIGHTS[name] * value for name, value in found.items()]).sum()

    def _text_losses(self, batch: Batch, images: Tensor) -> dict[str, Tensor]:
        written = write_losses(self.model, self.heads, self.writing, batch["write"], images)
        return written | match_losses(self.model, self.heads, self.matching, batch["match"], images)

    @torch.inference_mode()
    def figures(self) -> dict[str, Any]:
        """The losses on a validation batch, how well cells are read, and wrong captions told from true ones."""
        batches = BlipBatches(BlipRecipe(batch=self.plan.gallery), split_name="validation")
        batch = moved(next(iter(batches)), self.device)
        images = self.model.images(scale_pixels(batch["pixels"]))
        found = image_losses(self.model, self.heads, batch, images)
        out = {
            f"cell {name}": value
            for name, value in self.model.detector.accuracy(images[:, 1:], batch["classes"]).items()
        }
        if self.phase != "image":
            found |= self._text_losses(batch, images)
            out |= {f"wrong {what}": self._told_apart(what) for what in WRONG}
        return {name: round(float(value), 4) for name, value in (found | out).items()}

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
        return (scores[0] > scores[1]).float().mean().item()

    def save_model(self, folder: Path) -> None:
        """Write the checkpoint in BLIP format: the mean, once there is one."""
        best = self.mean.module if self.mean.n_averaged else self.model
        assert isinstance(best, Blip)
        save_blip(best, folder)
