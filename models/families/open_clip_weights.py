"""The weights of open_clip in modules of transformers: other names, and query, key and value in one matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from models.errors import BrokenCheckpoint, UnsupportedModel
from models.families.family import Network
from models.families.hub import load_module
from models.files import Checkpoint, first_line

if TYPE_CHECKING:
    import torch

POOLERS = {
    "mean_pooler": "mean of positions",
    "max_pooler": "maximum of positions",
    "cls_pooler": "pooler of the first position",
    "cls_last_hidden_state_pooler": "first position",
}
"""How a text tower of transformers is pooled, in words, by open_clip's name."""

_OUTER = {  # of open_clip to (transformers, whether it is transposed)
    "visual.class_embedding": ("vision_model.embeddings.class_embedding", False),
    "visual.conv1.weight": ("vision_model.embeddings.patch_embedding.weight", False),
    "visual.positional_embedding": ("vision_model.embeddings.position_embedding.weight", False),
    "visual.ln_pre.weight": ("vision_model.pre_layrnorm.weight", False),
    "visual.ln_pre.bias": ("vision_model.pre_layrnorm.bias", False),
    "visual.ln_post.weight": ("vision_model.post_layernorm.weight", False),
    "visual.ln_post.bias": ("vision_model.post_layernorm.bias", False),
    "visual.proj": ("visual_projection.weight", True),
    "text.token_embedding.weight": ("text_model.embeddings.token_embedding.weight", False),
    "text.positional_embedding": ("text_model.embeddings.position_embedding.weight", False),
    "text.ln_final.weight": ("text_model.final_layer_norm.weight", False),
    "text.ln_final.bias": ("text_model.final_layer_norm.bias", False),
    "text.text_projection": ("text_projection.weight", True),
}
_BLOCKS = {"visual.transformer.resblocks.": "vision_model.encoder.layers.",
           "text.transformer.resblocks.": "text_model.encoder.layers."}  # fmt: skip
_INNER = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj",
          "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}  # fmt: skip
_VISION, _TEXT = ("vision_model.", "visual_projection."), ("text_model.", "text_projection.")
_UNUSED = {"logit_scale", "logit_bias", "text.attn_mask", "attn_mask", "text.transformer.embeddings.position_ids"}


def load_open_clip(checkpoint: Checkpoint, config: Any, device: torch.device, dtype: torch.dtype) -> Network:
    """Both towers on a device.

    Raises:
        BrokenCheckpoint: weights that are missing, that cannot be read, or that the configuration does not call for.
    """
    from torch import nn

    ours, rest = _renamed(checkpoint, _read(checkpoint))
    vision = _tower(checkpoint, "CLIPVisionModelWithProjection", config.vision_config, ours, _VISION, device, dtype)
    texts: Callable[..., torch.Tensor]
    if config.from_hub:
        text, texts = _hub_text(checkpoint, config, rest, device, dtype)
    elif rest:
        raise BrokenCheckpoint(_left_over(checkpoint, sorted(rest)))
    else:
        text = _tower(checkpoint, config.text_tower, config.text_config, ours, _TEXT, device, dtype)
        texts = lambda **batch: text(**batch).text_embeds  # noqa: E731
    return Network(nn.ModuleList([vision, text]), lambda **batch: vision(**batch).image_embeds, texts)


def _read(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return {key: value for path in checkpoint.weights for key, value in load_file(path).items()}
    except (OSError, ValueError, SafetensorError) as error:
        raise BrokenCheckpoint(f"the weights of {checkpoint.model} cannot be loaded: {first_line(error)}") from error


def _renamed(
    checkpoint: Checkpoint, weights: dict[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The weights of open_clip's own towers by transformers' names, and those of a text tower of transformers."""
    ours, rest = {}, {}
    for key, value in weights.items():
        # Without `custom_text` the text tower is not apart: its weights lie at the top.
        name = key if key.startswith(("visual.", "text.", "logit_")) else f"text.{key}"
        block = next((prefix for prefix in _BLOCKS if name.startswith(prefix)), None)
        if name in _UNUSED:
            continue
        if name in _OUTER:
            new, transposed = _OUTER[name]
            ours[new] = value.T.contiguous() if transposed else value
        elif block is not None:
            ours.update(_in_block(checkpoint, _BLOCKS[block], name.removeprefix(block), value))
        elif name.startswith("visual."):
            raise BrokenCheckpoint(_left_over(checkpoint, [key]))
        else:
            rest[name] = value
    return ours, rest


def _in_block(checkpoint: Checkpoint, prefix: str, name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    """One weight of one block: "3.attn.in_proj_weight" is three matrices of layer 3."""
    layer, _, inner = name.partition(".")
    if inner in {"attn.in_proj_weight", "attn.in_proj_bias"}:
        part = inner.rpartition("_")[2]
        return {
            f"{prefix}{layer}.self_attn.{which}_proj.{part}": third.contiguous()
            for which, third in zip("qkv", value.chunk(3), strict=True)
        }
    module, _, part = inner.rpartition(".")
    if module not in _INNER:
        raise BrokenCheckpoint(_left_over(checkpoint, [f"{prefix}{name}"]))
    return {f"{prefix}{layer}.{_INNER[module]}.{part}": value}


def _tower(
    checkpoint: Checkpoint, architecture: str, config: Any, weights: dict[str, torch.Tensor],
    prefixes: tuple[str, ...],    device: torch.device, dtype: torch.dtype,
) -> Any:  # fmt: skip
    own = {key: value for key, value in weights.items() if key.startswith(prefixes)}
    return load_module(checkpoint, architecture, device, dtype, config=config, state_dict=own)


def _hub_text(
    checkpoint: Checkpoint, config: Any, weights: dict[str, torch.Tensor], device: torch.device, dtype: torch.dtype
) -> tuple[Any, Callable[..., torch.Tensor]]:
    """A text tower of transformers and its projection, and what pools and projects as open_clip does it."""
    import torch
    from torch import nn

    pooler = config.settings.get("hf_pooler_type", "mean_pooler")
    inner = "text.transformer."
    own = {key.removeprefix(inner): value for key, value in weights.items() if key.startswith(inner)}
    tower = load_module(
        checkpoint, config.text_tower, device, dtype, config=config.text_config, state_dict=own,
        add_pooling_layer=pooler == "cls_pooler",
    )  # fmt: skip
    width, dim = config.text_config.hidden_size, config.projection_dim
    projection: nn.Module
    kind = config.settings.get("hf_proj_type", "mlp")
    if kind == "mlp":
        middle = (width + dim) // 2
        projection = nn.Sequential(nn.Linear(width, middle, bias=False), nn.GELU(), nn.Linear(middle, dim, bias=False))
    elif kind == "linear":
        projection = nn.Linear(width, dim, bias=False)
    elif not kind and width == dim:
        projection = nn.Identity()
    else:
        raise UnsupportedModel(f"{checkpoint.model} projects texts by {kind!r}; supported are mlp and linear")
    left = {key.removeprefix("text.proj."): value for key, value in weights.items() if not key.startswith(inner)}
    try:
        projection.load_state_dict(left)
    except RuntimeError as error:
        raise BrokenCheckpoint(
            f"the text projection of {checkpoint.model} does not fit: {' '.join(str(error).split())}"
        ) from error
    projection = projection.eval().requires_grad_(False).to(device, dtype)

    def texts(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        found = tower(input_ids=input_ids, attention_mask=attention_mask)
        states, mask = found.last_hidden_state, attention_mask.unsqueeze(-1)
        if pooler == "mean_pooler":
            pooled = (states * mask).sum(1) / mask.sum(1)
        elif pooler == "max_pooler":
            pooled = states.masked_fill(mask == 0, -torch.inf).amax(1)
        elif pooler == "cls_pooler":
            pooled = found.pooler_output
        else:
            pooled = states[:, 0]
        return projection(pooled)

    return nn.ModuleList([tower, projection]), texts


def _left_over(checkpoint: Checkpoint, keys: list[str]) -> str:
    return (
        f"{checkpoint.model} has weights that its configuration does not call for, such as {keys[0]}; it is of an "
        f"architecture that is not served, or its configuration is another's"
    )
