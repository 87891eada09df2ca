"""A folder in the format of the bundled captioner, with random weights."""

from __future__ import annotations

from pathlib import Path

import torch

from models.scenes.blip import Blip, save_blip


def build_blip(folder: Path) -> Path:
    """Weights of a size at which outputs depend on inputs, and an end token that comes now and then."""
    model = Blip(3)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.2, generator=generator)
        model.text_decoder.cls.predictions.bias[model.config.text_config.sep_token_id] += 2.0
    save_blip(model, folder)
    return folder
