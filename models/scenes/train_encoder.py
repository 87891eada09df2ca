"""How the dual encoder is trained.

First the image tower alone learns the known truth (what lies in each grid cell, which attribute pairs are present),
then both towers learn to agree (CLIP's loss) with that truth as a smaller helper. Plain contrastive training would
need many times as many samples. The heads that read the truth are thrown away.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPModel

from .captions import caption
from .dataset import Batches, Recipe
from .encoder import build_encoder, encode_scenes, encode_texts, image_parts, save_encoder, scale_pixels, text_embedding
from .losses import Heads, contrastive
from .recall import recall_at
from .sample import sample_scene
from .training import Batch, Phase, Trainer


class EncoderTrainer(Trainer):
    """Trains a dual encoder from nothing."""

    model: CLIPModel
    heads: Heads

    def build(self) -> tuple[CLIPModel, Heads]:
        """An untrained dual encoder and its heads."""
        self.model = build_encoder(self.plan.seed)
        config = self.model.config
        self.heads = Heads(config.vision_config.hidden_size, config.projection_dim)
        return self.model, self.heads

    def batches(self, phase: Phase) -> Batches:
        """Scenes, and a caption each once both towers learn."""
        plan, joint = self.plan, phase != "image"
        recipe = Recipe(batch=plan.batch, text=joint, edited=plan.edited if joint else 0.0)
        return Batches(recipe, self.first_scene)

    def loss(self, batch: Batch, phase: Phase) -> Tensor:
        """The known truth alone, or the contrastive loss with the truth as its helper."""
        heads = self.heads
        image, tokens = image_parts(self.model, scale_pixels(batch["pixels"]))
        cells, pairs = heads.cell_loss(tokens, batch["cells"]), heads.pair_loss(image, batch["things"])
        scene = heads.scene_loss(image, batch["scene"])
        if phase == "image":
            return cells + 0.1 * pairs + 0.3 * scene
        with torch.no_grad():
            self.model.logit_scale.clamp_(max=math.log(100))
        text, whole = text_embedding(self.model, batch["ids"]), batch["complete"]
        agree = contrastive(image, text, self.model.logit_scale.exp(), batch["also"])
        told = heads.pair_loss(text[whole], batch["things"][whole])
        return agree + 0.3 * cells + 0.03 * pairs + 0.03 * told + 0.05 * scene

    def figures(self) -> dict[str, Any]:
        """Recall among validation scenes, and how well the grid's cells are read."""
        gallery = self.plan.gallery
        scenes = [sample_scene(i, split_name="validation", things=(2, 4)) for i in range(gallery)]
        image = encode_scenes(self.model, scenes)
        text = encode_texts(self.model, [caption(s, "full", i).text for i, s in enumerate(scenes)])
        scores = (text @ image.T).numpy()
        return {
            "scale": round(self.model.logit_scale.exp().item(), 2),
            f"recall@1 of {gallery}": recall_at(scores, 1).value,
            f"recall@10 of {gallery}": recall_at(scores, 10).value,
            f"image to text recall@1 of {gallery}": recall_at(scores.T, 1).value,
            **self._cells(),
        }

    @torch.inference_mode()
    def _cells(self) -> dict[str, float]:
        batch = next(iter(Batches(Recipe(text=False), split_name="validation")))
        _, tokens = image_parts(self.model, scale_pixels(batch["pixels"].to(self.device)))
        accuracy = self.heads.cell_accuracy(tokens, batch["cells"].to(self.device))
        return {f"cell {name}": round(value, 3) for name, value in accuracy.items()}

    def save_model(self, folder: Path) -> None:
        """Write the model in CLIP format."""
        save_encoder(self.model, folder)
