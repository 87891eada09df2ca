"""A reference for open_clip: the architecture of the CLIP paper with the module names of open_clip's checkpoints.

open_clip itself needs torchvision. This is written from the papers (arXiv 2103.00020, section 2.4; 2010.11929) on
`nn.MultiheadAttention`, whose joint projection is what the checkpoints hold, and shares nothing with `models`.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ftfy
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from transformers import AutoTokenizer, CLIPTokenizer, XLMRobertaConfig, XLMRobertaModel

from tests.models.families.builders import save_xlmr_tokenizer
from tests.models.tiny_checkpoints import CONTEXT, DIM, SIDE, tiny_vocabulary

MEAN, STD = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
VISION = {"image_size": SIDE, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": CONTEXT, "width": 24, "heads": 3, "layers": 2}


class Sigmoid(nn.Module):
    """QuickGELU: the approximation of GELU that OpenAI trained with."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / (1 + torch.exp(-1.702 * x))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, quick: bool) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", Sigmoid() if quick else nn.GELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor, hidden: torch.Tensor | None) -> torch.Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, attn_mask=hidden, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width: int, heads: int, layers: int, quick: bool) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, quick) for _ in range(layers))

    def forward(self, x: torch.Tensor, hidden: torch.Tensor | None = None) -> torch.Tensor:
        for block in self.resblocks:
            x = block(x, hidden)
        return x


class Visual(nn.Module):
    def __init__(self, cfg: dict[str, Any], dim: int, quick: bool) -> None:
        super().__init__()
        width, patch = cfg["width"], cfg["patch_size"]
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty((cfg["image_size"] // patch) ** 2 + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = Transformer(width, width // cfg["head_width"], cfg["layers"], quick)
        self.proj = nn.Parameter(torch.empty(width, dim))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        patches = self.conv1(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(pixels), 1, -1)
        x = self.ln_pre(torch.cat([first, patches], dim=1) + self.positional_embedding)
        return self.ln_post(self.transformer(x)[:, 0]) @ self.proj


class Text(nn.Module):
    def __init__(self, cfg: dict[str, Any], dim: int, quick: bool) -> None:
        super().__init__()
        width = cfg["width"]
        self.end = cfg.get("eos_id")
        self.token_embedding = nn.Embedding(cfg["vocab_size"], width)
        self.positional_embedding = nn.Parameter(torch.empty(cfg["context_length"], width))
        self.transformer = Transformer(width, cfg["heads"], cfg["layers"], quick)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, dim))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        length = ids.shape[1]
        future = torch.full((length, length), -torch.inf).triu(1)
        x = self.ln_final(self.transformer(self.token_embedding(ids) + self.positional_embedding[:length], future))
        last = ids.argmax(1) if self.end is None else (ids == self.end).int().argmax(1)
        return x[torch.arange(len(ids)), last] @ self.text_projection


class HubText(nn.Module):
    """A text tower of transformers: the mean of its positions through two layers."""

    def __init__(self, tower: nn.Module, width: int, dim: int) -> None:
        super().__init__()
        self.transformer = tower
        middle = (width + dim) // 2
        self.proj = nn.Sequential(nn.Linear(width, middle, bias=False), nn.GELU(), nn.Linear(middle, dim, bias=False))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        seen = (ids != 1).long()
        states = self.transformer(input_ids=ids, attention_mask=seen).last_hidden_state
        return self.proj((states * seen[..., None]).sum(1) / seen.sum(1, keepdim=True))


class Reference(nn.Module):
    def __init__(self, cfg: dict[str, Any], tower: nn.Module | None = None) -> None:
        super().__init__()
        dim, quick = cfg["embed_dim"], cfg.get("quick_gelu", False)
        self.visual = Visual(cfg["vision_cfg"], dim, quick)
        self.text = Text(cfg["text_cfg"], dim, quick) if tower is None else HubText(tower, 32, dim)
        self.logit_scale = nn.Parameter(torch.tensor(4.6052))


def randomised(model: nn.Module, seed: int) -> nn.Module:
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        for name, weight in model.named_parameters():
            norm = name.endswith("weight") and ("ln_" in name or "LayerNorm" in name)
            weight.normal_(mean=1.0 if norm else 0.0, std=0.2, generator=generator)
    return model.eval()


def build(
    folder: Path, *, quick_gelu: bool | None = None, hub: bool = False, eos: bool = False, custom_text: bool = False,
    preprocess: dict[str, Any] | None = None, seed: int = 0,
) -> tuple[Path, Reference]:  # fmt: skip
    """Write a checkpoint; returns its folder and the reference that holds the same weights."""
    folder.mkdir(parents=True)
    text: dict[str, Any] = dict(TEXT)
    tower = None
    if hub:
        rows = save_xlmr_tokenizer(folder, context=512)
        text = {"hf_model_name": "xlm-roberta-tiny", "hf_tokenizer_name": "xlm-roberta-tiny", "context_length": CONTEXT}
        config = XLMRobertaConfig(
            vocab_size=rows, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
            max_position_embeddings=40, type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2,
            attn_implementation="eager",
        )  # fmt: skip
        config.save_pretrained(folder / "xlm-roberta-tiny")
        tower = XLMRobertaModel(config, add_pooling_layer=False)
    elif eos:
        text |= {"vocab_size": save_xlmr_tokenizer(folder), "pool_type": "eos", "eos_id": 2,
                 "hf_tokenizer_name": "xlm-v", "pad_id": 1}  # fmt: skip
    else:
        vocabulary, merges = tiny_vocabulary()
        CLIPTokenizer(vocab=dict(vocabulary), merges=list(merges), model_max_length=CONTEXT).save_pretrained(folder)
        text["vocab_size"] = len(vocabulary)
    cfg: dict[str, Any] = {"embed_dim": DIM, "vision_cfg": dict(VISION), "text_cfg": text}
    if quick_gelu is not None:
        cfg["quick_gelu"] = quick_gelu
    if custom_text:
        cfg["custom_text"] = True
    content = {"model_cfg": cfg, "preprocess_cfg": {"mean": list(MEAN), "std": list(STD), **(preprocess or {})}}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    model = randomised(Reference(cfg, tower), seed)
    weights = {key: value.contiguous() for key, value in model.state_dict().items()}
    if not hub and not custom_text:  # CLIP's own layout has the text tower at the top
        weights = {key.removeprefix("text."): value for key, value in weights.items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder, model


def own_pixels(image: np.ndarray, preprocess: dict[str, Any] | None = None) -> np.ndarray:
    """torchvision's Resize and CenterCrop on a Pillow image: the shorter side, then a crop whose start is rounded."""
    given = preprocess or {}
    picture, height, width = Image.fromarray(image), *image.shape[:2]
    kind = Image.Resampling.BILINEAR if given.get("interpolation") == "bilinear" else Image.Resampling.BICUBIC
    if given.get("resize_mode") == "squash":
        return np.asarray(picture.resize((SIDE, SIDE), kind))
    short, long = min(height, width), max(height, width)
    sides = {short: SIDE, long: int(SIDE * long / short)} if short != long else {short: SIDE}
    resized = np.asarray(picture.resize((sides[width], sides[height]), kind))
    top, left = int(round((sides[height] - SIDE) / 2.0)), int(round((sides[width] - SIDE) / 2.0))  # noqa: RUF046
    return resized[top : top + SIDE, left : left + SIDE]


def own_images(model: Reference, images: Sequence[np.ndarray], preprocess: dict[str, Any] | None = None) -> np.ndarray:
    pixels = np.stack([(own_pixels(image, preprocess) / 255 - MEAN) / STD for image in images])
    with torch.inference_mode():
        return model.visual(torch.from_numpy(pixels).permute(0, 3, 1, 2).float()).numpy()


def own_texts(folder: Path, model: Reference, texts: Sequence[str]) -> np.ndarray:
    """Cleaned, tokenised, cut and filled to the context: with zeros, or as a tokenizer of the hub does it."""
    cfg = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    tokenizer, rows = AutoTokenizer.from_pretrained(folder), []
    for text in texts:
        clean = " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())
        if "hf_tokenizer_name" in cfg:
            ids = tokenizer(clean, padding="max_length", truncation=True, max_length=CONTEXT)["input_ids"]
        else:
            ids = tokenizer(clean.lower(), verbose=False)["input_ids"]
            ids = [*ids[: CONTEXT - 1], ids[-1]] if len(ids) > CONTEXT else ids
            ids = [*ids, *[0] * (CONTEXT - len(ids))]
        rows.append(ids)
    with torch.inference_mode():
        return model.text(torch.tensor(rows)).numpy()
