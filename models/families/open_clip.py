"""Checkpoints as open_clip saves them: `open_clip_config.json` beside `open_clip_model.safetensors`.

Served are its own vision transformer with its own text transformer (Radford et al. 2021) or with BERT, RoBERTa or XLM-R
as the text tower. The towers run as modules of transformers with the same arithmetic, see `open_clip_weights`. Anything
in the configuration that would change a vector and is not known here is refused by name, so nothing is ignored.

The activation is QuickGELU where `quick_gelu` says so. OpenAI's weights need it, and open_clip's configuration for the
same sizes leaves it out, so a checkpoint that names OpenAI and does not say is refused.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import BrokenCheckpoint, MissingLibrary, UnsupportedModel
from models.families.family import Family
from models.families.open_clip_weights import POOLERS, load_open_clip
from models.files import OPEN_CLIP_CONFIG, Checkpoint, first_line, read_json
from models.image_config import per_channel
from models.preprocess import ImagePipeline
from models.text import TextRules

_IGNORED = {  # of training, of other towers than those served, or without effect on a vector
    "vision_cfg": {"patch_dropout", "output_tokens", "final_ln_after_pool", "attn_pooler_queries", "attn_pooler_heads"},
    "text_cfg": {"output_tokens", "final_ln_after_pool", "hf_model_pretrained", "pad_id", "bos_id", "variable_text"},
    "model_cfg": {"init_logit_scale", "init_logit_bias", "nonscalar_logit_scale", "cast_dtype", "output_dict",
                  "custom_text"},
}  # fmt: skip
_READ = {
    "vision_cfg": {"image_size", "layers", "width", "head_width", "mlp_ratio", "patch_size", "norm_kwargs"},
    "text_cfg": {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "norm_kwargs", "eos_id",
                 "pool_type", "tokenizer_kwargs", "hf_model_name", "hf_tokenizer_name", "hf_pooler_type",
                 "hf_proj_type"},
    "model_cfg": {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg"},
}  # fmt: skip
_NEUTRAL = {"pos_embed_type": "learnable", "pool_type": "tok", "proj_type": "linear", "text_arch": "clip"}
"""Values of other keys that mean the architecture served; the rest mean it when they are false, empty or null."""
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_HUB_TOWERS = {"bert": "BertModel", "roberta": "RobertaModel", "xlm-roberta": "XLMRobertaModel"}


@dataclass(frozen=True, slots=True)
class OpenClipConfig:
    """What `open_clip_config.json` says, in the words of transformers.

    Args:
        vision_config: of a `CLIPVisionModelWithProjection`.
        text_config: of `text_tower`.
        text_tower: class of transformers.
        from_hub: whether the text tower is one of `_HUB_TOWERS`, or open_clip's own.
        projection_dim: length of the vectors.
        settings: `text_cfg` of the file.
        preprocess: `preprocess_cfg` of the file.
    """

    vision_config: Any
    text_config: Any
    text_tower: str
    from_hub: bool
    projection_dim: int
    settings: Mapping[str, Any]
    preprocess: Mapping[str, Any]


def _config(checkpoint: Checkpoint) -> OpenClipConfig:
    name = checkpoint.model
    content = read_json(checkpoint.folder / OPEN_CLIP_CONFIG, name)
    try:
        model = content["model_cfg"]
        vision, text = model["vision_cfg"], model["text_cfg"]
        _refuse_unknown(name, model, vision, text)
        _refuse_silent_openai(name, model)
        activation = "quick_gelu" if model.get("quick_gelu") else "gelu"
        dim, from_hub = int(model["embed_dim"]), bool(text.get("hf_model_name"))
        if from_hub:
            text_config, tower = _hub_text(checkpoint, text)
        else:
            text_config, tower = _own_text(name, text, activation, dim)
        vision_config = _vision_config(name, vision, activation, dim)
        return OpenClipConfig(
            vision_config, text_config, tower, from_hub, dim, text, content.get("preprocess_cfg") or {}
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BrokenCheckpoint(
            f"{OPEN_CLIP_CONFIG} of {name} cannot be used: {type(error).__name__}: {first_line(error)}"
        ) from error


def _refuse_unknown(name: str, model: Any, vision: Any, text: Any) -> None:
    if vision.get("timm_model_name"):
        raise UnsupportedModel(
            f"the vision tower of {name} is {vision['timm_model_name']} of timm, which is not served; use a checkpoint "
            f"in Hugging Face format (for SigLIP those of google/siglip-*)"
        )
    if isinstance(vision.get("layers"), list):
        raise UnsupportedModel(f"the vision tower of {name} is CLIP's ResNet, which is not served; use one with a ViT")
    for part, settings in (("model_cfg", model), ("vision_cfg", vision), ("text_cfg", text)):
        for key, value in settings.items():
            known = key in _READ[part] | _IGNORED[part] or key.startswith("timm_")  # there is no timm tower here
            if not known and value and value != _NEUTRAL.get(key):
                raise UnsupportedModel(
                    f"{name} has {key} {value!r} in {part} of {OPEN_CLIP_CONFIG}, which is not served"
                )


def _refuse_silent_openai(name: str, model: Any) -> None:
    if "openai" in name.lower() and "quick_gelu" not in model:
        raise BrokenCheckpoint(
            f"{name} does not say whether its activation is QuickGELU, which OpenAI's weights were trained with: write "
            f'"quick_gelu": true (or false, if they are not OpenAI\'s) into model_cfg of {OPEN_CLIP_CONFIG}'
        )


def _vision_config(name: str, vision: Any, activation: str, dim: int) -> Any:
    from transformers import CLIPVisionConfig

    size, width = vision.get("image_size", 224), vision.get("width", 768)
    if not isinstance(size, int):
        raise UnsupportedModel(f"{name} takes images of {size} pixels; only squares are served")
    return CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=int(width * vision.get("mlp_ratio", 4.0)),
        num_hidden_layers=vision.get("layers", 12),
        num_attention_heads=width // vision.get("head_width", 64),
        image_size=size,
        patch_size=vision.get("patch_size", 16),
        projection_dim=dim,
        hidden_act=activation,
        layer_norm_eps=_eps(name, vision),
    )


def _own_text(name: str, text: Any, activation: str, dim: int) -> tuple[Any, str]:
    """Configuration and class of the text tower. In transformers CLIP's pools the largest id where eos_token_id is 2,
    and MetaCLIP 2's pools the end token whatever it is."""
    from transformers import CLIPTextConfig, MetaClip2TextConfig

    width, pooling = text.get("width", 512), text.get("pool_type", "argmax")
    if pooling not in {"argmax", "eos"}:
        raise UnsupportedModel(f"{name} pools texts by {pooling!r}; only argmax and eos are served")
    described = CLIPTextConfig if pooling == "argmax" else MetaClip2TextConfig
    config = described(
        vocab_size=text.get("vocab_size", 49408),
        hidden_size=width,
        intermediate_size=int(width * text.get("mlp_ratio", 4.0)),
        num_hidden_layers=text.get("layers", 12),
        num_attention_heads=text.get("heads", 8),
        max_position_embeddings=text.get("context_length", 77),
        projection_dim=dim,
        hidden_act=activation,
        layer_norm_eps=_eps(name, text),
        bos_token_id=None,
        eos_token_id=2 if pooling == "argmax" else int(text["eos_id"]),
    )
    return config, f"{'CLIP' if pooling == 'argmax' else 'MetaClip2'}TextModelWithProjection"


def _eps(name: str, settings: Any) -> float:
    given = settings.get("norm_kwargs") or {}
    if set(given) - {"eps"}:
        raise UnsupportedModel(f"{name} has norm_kwargs {given!r} in {OPEN_CLIP_CONFIG}; only eps is served")
    return float(given.get("eps", 1e-5))


def _hub_text(checkpoint: Checkpoint, text: Any) -> tuple[Any, str]:
    """Configuration and class of the text tower."""
    config = _hub_config(checkpoint, str(text["hf_model_name"]))
    if config.model_type not in _HUB_TOWERS:
        raise UnsupportedModel(
            f"the text tower of {checkpoint.model} is of type {config.model_type!r}; supported are "
            f"{', '.join(_HUB_TOWERS)}"
        )
    if text.get("hf_pooler_type", "mean_pooler") not in POOLERS:
        raise UnsupportedModel(
            f"{checkpoint.model} pools texts by {text['hf_pooler_type']!r}; supported are {', '.join(POOLERS)}"
        )
    return config, _HUB_TOWERS[config.model_type]


def _hub_config(checkpoint: Checkpoint, wanted: str) -> Any:
    """The configuration of the text tower, which an open_clip checkpoint names but does not hold."""
    from transformers import AutoConfig

    beside = checkpoint.folder / Path(wanted).name
    try:
        if beside.is_dir():
            return AutoConfig.from_pretrained(beside, local_files_only=True, trust_remote_code=False)
        return AutoConfig.from_pretrained(wanted, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise BrokenCheckpoint(
            f"the text tower of {checkpoint.model} is {wanted}, whose config.json cannot be read: run `hf download "
            f"{wanted} config.json` where there is a network, or put that file into {Path(wanted).name}/ beside the "
            f"weights ({first_line(error)})"
        ) from error


def _image(checkpoint: Checkpoint, config: OpenClipConfig) -> ImagePipeline:
    """open_clip resizes with torchvision, which filters as Pillow does and rounds its crop in a way of its own."""
    given, side = config.preprocess, config.vision_config.image_size
    mode, interpolation = given.get("resize_mode") or "shortest", given.get("interpolation") or "bicubic"
    if mode not in {"shortest", "squash"}:
        raise UnsupportedModel(f"{checkpoint.model} has resize_mode {mode!r}; only shortest and squash are served")
    if interpolation not in {"bicubic", "bilinear", "random"}:
        raise UnsupportedModel(f"{checkpoint.model} has interpolation {interpolation!r}; expected bicubic or bilinear")
    return ImagePipeline(
        edge=side if mode == "shortest" else None,
        exact=(side, side) if mode == "squash" else None,
        crop=(side, side) if mode == "shortest" else None,
        resample=2 if interpolation == "bilinear" else 3,  # "random" is of training, and bicubic afterwards
        scale=1 / 255,
        mean=per_channel(given.get("mean") or _MEAN),
        std=per_channel(given.get("std") or _STD),
        round_crop=mode == "shortest",
    )


def _texts(checkpoint: Checkpoint, config: OpenClipConfig) -> TextRules:
    tower, settings = config.text_config, config.settings
    clean = _cleaner(checkpoint, settings)
    if config.from_hub:
        positions = tower.max_position_embeddings
        if tower.model_type != "bert":  # RoBERTa counts positions from the padding id on
            positions -= tower.pad_token_id + 1
        return TextRules(
            padding="masked",
            context_length=min(settings.get("context_length", 77), positions),
            vocabulary=tower.vocab_size,
            pooling=POOLERS[settings.get("hf_pooler_type", "mean_pooler")],
            pad_id=tower.pad_token_id,
            clean=clean,
            heed_tokenizer=False,
        )
    end = tower.eos_token_id if settings.get("pool_type", "argmax") == "eos" else None
    own = not settings.get("hf_tokenizer_name")
    return TextRules(
        # Behind the largest id zeros change nothing; ids of another tokenizer's padding might.
        padding="longest" if own else "context",
        context_length=tower.max_position_embeddings,
        vocabulary=tower.vocab_size,
        pooling="largest id" if end is None else f"first id {end}",
        end_id=end,
        pad_id=0 if own else None,
        clean=clean,
        heed_tokenizer=False,
    )


def _cleaner(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> Callable[[str], str]:
    """open_clip repairs the encoding of a text, its HTML entities and its white space before it is tokenised."""
    given = dict(settings.get("tokenizer_kwargs") or {})
    clean = given.pop("clean", "whitespace" if settings.get("hf_tokenizer_name") else "lower")
    if given or clean not in {"whitespace", "lower"}:
        raise UnsupportedModel(
            f"{checkpoint.model} has tokenizer_kwargs {settings['tokenizer_kwargs']!r}; only clean, as whitespace or "
            f"lower, is served"
        )
    try:
        from ftfy import fix_text
    except ImportError as error:
        raise MissingLibrary(f"texts of {checkpoint.model} are cleaned by ftfy; run `pip install ftfy`") from error

    def cleaned(text: str) -> str:
        found = " ".join(html.unescape(html.unescape(fix_text(text))).split())
        return found.lower() if clean == "lower" else found

    return cleaned


def _dim(_: Checkpoint, config: OpenClipConfig) -> int:
    return config.projection_dim


OPEN_CLIP = Family(
    kind="open_clip",
    image_pooling="class token",
    config=_config,
    image=_image,
    dim=_dim,
    text=_texts,
    load=load_open_clip,
)
