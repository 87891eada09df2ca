"""The captioner, the matcher and the detector in one checkpoint of Hugging Face BLIP format, over one vision tower."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BlipConfig
from transformers.models.blip.modeling_blip import BlipVisionModel
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel, BlipTextModel

from .detector import DetectorHead
from .encoder import MEAN, STD
from .tokens import END_ID, FULL, PAD_ID, START_ID, build_tokenizer, save_tokenizer

SIDE: Final = 96
"""Pixels of the image's side; with patches of 32 pixels a patch is a cell of the scenes' grid."""
PATCH: Final = 32
CONTEXT: Final = 80
"""Tokens of the longest text: a full caption of six things has 66."""
WORD_LAYER, NOUN_LAYER, PART_LAYER = 1, 2, 3
"""Text layers (1 is the first) after which hidden states say which grid cells have a word's attribute, which hold what
a noun with its adjectives speaks of, and whether a part of the text is true; the layers after them use that."""
UNTRAINED: Final = ("vision_proj", "text_proj")
"""Parts of ``BlipForImageTextRetrieval`` that only its cosine mode uses; saved as zeros."""


def blip_tokenizer() -> Tokenizer:
    """The scenes' tokenizer with commas and colons as tokens, and the prompt token FULL."""
    return build_tokenizer(punctuation=True)


def full_id() -> int:
    """The id of the token that asks for the full caption."""
    return blip_tokenizer().get_vocab()[FULL]


def blip_config() -> BlipConfig:
    """Shapes of the three models, about 5 million parameters."""
    text = {
        "vocab_size": blip_tokenizer().get_vocab_size(), "hidden_size": 128, "encoder_hidden_size": 192,
        "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": CONTEXT,
        "hidden_act": "gelu", "bos_token_id": START_ID, "eos_token_id": END_ID, "sep_token_id": END_ID,
        "pad_token_id": PAD_ID, "projection_dim": 16,
    }  # fmt: skip
    vision = {
        "hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 6,
        "image_size": SIDE, "patch_size": PATCH, "hidden_act": "gelu", "initializer_range": 0.02, "projection_dim": 16,
    }  # fmt: skip
    return BlipConfig(text_config=text, vision_config=vision, projection_dim=16, image_text_hidden_size=16)


class Blip(nn.Module):
    """All parts of the checkpoint under the names that the classes of transformers give them, and the detector."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.config = blip_config()
        self.vision_model = BlipVisionModel(self.config.vision_config)
        self.text_decoder = BlipTextLMHeadModel(self.config.text_config)
        self.text_encoder = BlipTextModel(self.config.text_config, add_pooling_layer=False)
        self.itm_head = nn.Linear(self.config.text_config.hidden_size, 2)
        self.detector = DetectorHead(self.config.vision_config.hidden_size)
        self.full_id, self.side = full_id(), SIDE

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.itm_head.weight.device

    def images(self, pixels: Tensor) -> Tensor:
        """Tokens (B, 10, width) of scaled pixels: the class token, then the grid's cells row by row."""
        tokens: Tensor = self.vision_model(pixel_values=pixels).last_hidden_state
        return tokens

    def match(self, ids: Tensor, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Texts (B, T) beside image tokens: logits (B, 2) for "false" and "true", and the hidden states (B, T, width)
        before the first layer and after each."""
        out = self.text_encoder(
            input_ids=ids,
            attention_mask=(ids != PAD_ID).long(),
            encoder_hidden_states=images,
            output_hidden_states=True,
        )
        return self.itm_head(out.last_hidden_state[:, 0]), out.hidden_states

    def tell(self, ids: Tensor, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Next-token logits (B, T, words) of texts (B, T), and the hidden states (B, T, width) as in ``match``.

        Padding lies behind the text, so causal attention never sees it.
        """
        out = self.text_decoder.bert(
            input_ids=ids, encoder_hidden_states=images, is_decoder=True, use_cache=False, output_hidden_states=True
        )
        return self.text_decoder.cls(out.last_hidden_state), out.hidden_states


def start_from_encoder(model: Blip, folder: Path) -> None:
    """Copy the lower layers of a trained dual encoder's image tower into the vision tower.

    BLIP has no norm before its first layer, so that norm's gain and shift and its mean divisor go into the embeddings;
    patches of 24 pixels are stretched to PATCH, so that a larger picture of the same patch gives the same number.
    """
    state = load_file(folder / "model.safetensors")
    tower = "vision_model."
    old = {name.removeprefix(tower): value.float() for name, value in state.items() if name.startswith(tower)}
    new = model.vision_model.state_dict()
    gain, shift = old["pre_layrnorm.weight"], old["pre_layrnorm.bias"]
    kernel = old["embeddings.patch_embedding.weight"]
    small = kernel.shape[-1]
    position = old["embeddings.position_embedding.weight"]
    classes = old["embeddings.class_embedding"] + position[0]

    def centred(rows: Tensor) -> Tensor:
        return rows - rows.mean(dim=-1, keepdim=True)

    spread = _patch_spread(kernel, position[1:])
    stretched = F.interpolate(kernel, size=(PATCH, PATCH), mode="bilinear") * (small / PATCH) ** 2
    flat = centred(stretched.flatten(1).T).T * (gain / spread)[:, None]
    new["embeddings.patch_embedding.weight"] = flat.view_as(stretched)
    new["embeddings.patch_embedding.bias"] = torch.zeros_like(gain)
    new["embeddings.class_embedding"] = (centred(classes) / classes.std(correction=0) * gain + shift).view(1, 1, -1)
    # The dual encoder has learned to ignore where a patch lies; for relations, and to write row by row, it must show.
    places = 0.5 * torch.randn(len(position) - 1, len(gain), generator=torch.Generator().manual_seed(0))
    cells = centred(position[1:]) / spread * gain + shift + places
    new["embeddings.position_embedding"] = torch.cat([torch.zeros_like(cells[:1]), cells])[None]
    for layer in range(model.config.vision_config.num_hidden_layers):
        of = f"encoder.layers.{layer}."
        for part in ("weight", "bias"):
            new[f"{of}self_attn.qkv.{part}"] = torch.cat([old[f"{of}self_attn.{n}_proj.{part}"] for n in "qkv"])
            new[f"{of}self_attn.projection.{part}"] = old[f"{of}self_attn.out_proj.{part}"]
            for name in ("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2"):
                new[f"{of}{name}.{part}"] = old[f"{of}{name}.{part}"]
    model.vision_model.load_state_dict(new)


def _patch_spread(kernel: Tensor, position: Tensor) -> float:
    """The usual standard deviation, over channels, of an embedded patch: a plain one in the middle of the range."""
    patch = kernel.sum(dim=(1, 2, 3)) * ((0.75 - MEAN) / STD)
    return float((patch + position).std(dim=-1, correction=0).mean())


def save_blip(model: Blip, folder: Path) -> None:
    """Write the checkpoint (float16), its tokenizer and its image processor's settings.

    ``BlipForConditionalGeneration`` and ``BlipForImageTextRetrieval`` both load it, each ignoring the other's parts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tied = ("text_decoder.cls.predictions.decoder.",)
    state = {
        name: value.detach().to("cpu", torch.float16).contiguous()
        for name, value in model.state_dict().items()
        if not name.startswith(tied) and not name.endswith("position_ids")
    }
    config = model.config
    width = config.image_text_hidden_size
    for name, of in zip(UNTRAINED, (config.vision_config.hidden_size, config.text_config.hidden_size), strict=True):
        state[f"{name}.weight"] = torch.zeros(width, of, dtype=torch.float16)
        state[f"{name}.bias"] = torch.zeros(width, dtype=torch.float16)
    weights = folder / "model.safetensors"
    save_file(state, weights, metadata={"format": "pt"})
    weights.chmod(0o644)
    told = config.to_dict()
    told["architectures"] = ["BlipForConditionalGeneration"]
    told["dtype"] = "float16"
    _write(folder / "config.json", told)
    processor = {
        "image_processor_type": "BlipImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True, "size": {"height": SIDE, "width": SIDE}, "resample": 3,
        "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": [MEAN] * 3, "image_std": [STD] * 3,
    }  # fmt: skip
    _write(folder / "preprocessor_config.json", processor)
    save_tokenizer(folder, blip_tokenizer(), CONTEXT)


def _write(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")
