"""The dual encoder in Hugging Face CLIP format: its shape, how it is saved, and how it encodes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from .render import render_array
from .scene import Scene
from .tokens import CONTEXT, END_ID, PAD_ID, START_ID, build_tokenizer, save_tokenizer

SIDE: Final = 72
"""Pixels of the image's side; with patches of 24 pixels a patch is a cell of the scenes' grid."""
MEAN, STD = 0.6, 0.25
READ_LAYER: Final = 3
"""Vision layer whose patch tokens the cell heads read; the layers after it are left to gather them."""


def build_encoder(seed: int = 0) -> CLIPModel:
    """An untrained dual encoder, about 3 million parameters."""
    torch.manual_seed(seed)
    vocabulary = build_tokenizer().get_vocab_size()
    text = {
        "vocab_size": vocabulary, "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": CONTEXT, "hidden_act": "gelu",
        "bos_token_id": START_ID, "eos_token_id": END_ID, "pad_token_id": PAD_ID,
    }  # fmt: skip
    vision = {
        "hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 5, "num_attention_heads": 6,
        "image_size": SIDE, "patch_size": 24, "hidden_act": "gelu",
    }  # fmt: skip
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=256, logit_scale_init_value=3.0)
    return CLIPModel._from_config(config, attn_implementation="eager")


def scale_pixels(pixels: Tensor) -> Tensor:
    """uint8 (B, side, side, 3) to the model's input, float (B, 3, side, side)."""
    return ((pixels.permute(0, 3, 1, 2).float() / 255 - MEAN) / STD).contiguous()


def image_parts(model: CLIPModel, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """(unit embeddings (B, D), patch tokens of READ_LAYER (B, patches, width)) of scaled pixels."""
    out = model.vision_model(pixel_values=pixels, output_hidden_states=True)
    embedding = model.visual_projection(out.pooler_output)
    return torch.nn.functional.normalize(embedding, dim=-1), out.hidden_states[READ_LAYER][:, 1:]


def text_embedding(model: CLIPModel, ids: Tensor) -> Tensor:
    """Unit embeddings (B, D) of token ids (B, T). Padding follows the end token, so causal attention never sees it."""
    pooled = model.text_model(input_ids=ids).pooler_output
    return torch.nn.functional.normalize(model.text_projection(pooled), dim=-1)


@torch.inference_mode()
def encode_scenes(model: CLIPModel, scenes: Sequence[Scene], batch: int = 128) -> Tensor:
    """Unit embeddings (N, D) of scenes rendered at the model's own side."""
    out = []
    for start in range(0, len(scenes), batch):
        pixels = np.stack([render_array(scene, SIDE) for scene in scenes[start : start + batch]])
        out.append(image_parts(model, scale_pixels(torch.from_numpy(pixels).to(model.device)))[0].cpu())
    return torch.cat(out)


@torch.inference_mode()
def encode_texts(model: CLIPModel, texts: Sequence[str], batch: int = 128) -> Tensor:
    """Unit embeddings (N, D) of texts."""
    tokenizer = build_tokenizer()
    tokenizer.enable_padding(pad_id=PAD_ID)
    tokenizer.enable_truncation(CONTEXT)
    out = []
    for start in range(0, len(texts), batch):
        ids = [encoding.ids for encoding in tokenizer.encode_batch(list(texts[start : start + batch]))]
        out.append(text_embedding(model, torch.tensor(ids, device=model.device)).cpu())
    return torch.cat(out)


def save_encoder(model: CLIPModel, folder: Path) -> None:
    """Write the model (float16), its tokenizer and its image processor's settings; loads with no code of ours."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: value.detach().to("cpu", torch.float16).contiguous()
        for name, value in model.state_dict().items()
        if not name.endswith("position_ids")
    }
    weights = folder / "model.safetensors"
    save_file(state, weights, metadata={"format": "pt"})
    weights.chmod(0o644)
    config = model.config.to_dict()
    config["architectures"] = ["CLIPModel"]
    config["dtype"] = "float16"
    _write(folder / "config.json", config)
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True, "size": {"shortest_edge": SIDE}, "resample": 3,
        "do_center_crop": True, "crop_size": {"height": SIDE, "width": SIDE},
        "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": [MEAN] * 3, "image_std": [STD] * 3,
    }  # fmt: skip
    _write(folder / "preprocessor_config.json", processor)
    save_tokenizer(folder)


def _write(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")
