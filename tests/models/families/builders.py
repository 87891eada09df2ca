"""Small random checkpoints of every family in the format of the hub, and what transformers itself computes with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModel, AutoTokenizer, BertTokenizer, XLMRobertaTokenizer
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.chinese_clip.image_processing_pil_chinese_clip import ChineseCLIPImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from tests.models.tiny_checkpoints import CONTEXT, CORPUS, DIM, SIDE, TOWER, build_clip, build_siglip, random_model

CHINESE = ["一张猫的照片", "红色的鞋子", "东京的两只小猫", "the cat"]
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
VISION = {**TOWER, "image_size": SIDE, "patch_size": 8}
PROCESSORS = {
    "CLIP": CLIPImageProcessorPil, "ChineseCLIP": ChineseCLIPImageProcessorPil, "Siglip": SiglipImageProcessorPil,
    "Siglip2": Siglip2ImageProcessorPil, "Bit": BitImageProcessorPil, "ConvNext": ConvNextImageProcessorPil,
}  # fmt: skip


@cache
def xlmr_vocabulary() -> list[tuple[str, float]]:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=90, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator([*CORPUS, *CHINESE * 4], trainer)
    return [(piece, score) for piece, score in json.loads(tokenizer.to_str())["model"]["vocab"]]


def save_xlmr_tokenizer(folder: Path, context: int = CONTEXT) -> int:
    """Write the tokenizer; returns the rows that a tower needs for it."""
    tokenizer = XLMRobertaTokenizer(vocab=xlmr_vocabulary(), model_max_length=context)
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def save_bert_tokenizer(folder: Path, context: int = CONTEXT) -> int:
    characters = sorted({c for text in [*CORPUS, *CHINESE] for c in text.lower() if not c.isspace()})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{c}" for c in characters if c.isascii())]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    BertTokenizer(vocab=vocabulary, model_max_length=context).save_pretrained(folder)
    return len(vocabulary)


def save(folder: Path, architecture: str, config: Any, seed: int = 3) -> Path:
    model = random_model(getattr(transformers, architecture), config, seed)
    with torch.no_grad():  # norms of ones would give DINOv2's vectors one length
        for name, weight in model.named_parameters():
            if "norm" in name.lower() and name.endswith("weight"):
                weight.normal_(1.0, 0.2, generator=torch.Generator().manual_seed(seed))
    model.save_pretrained(folder)
    return folder


def square(folder: Path, processor: str = "CLIP", **options: Any) -> None:
    sizes = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}, **options}
    PROCESSORS[processor](**sizes).save_pretrained(folder)


def build_metaclip_2(folder: Path, *, hidden_act: str = "quick_gelu", tokenizer_context: int = 512) -> Path:
    """XLM-R's vocabulary in CLIP's tower, whose context is shorter than the tokenizer's."""
    rows = save_xlmr_tokenizer(folder, tokenizer_context)
    square(folder)
    text = {**TOWER, "vocab_size": rows, "max_position_embeddings": CONTEXT, "hidden_act": hidden_act,
            "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}  # fmt: skip
    config = transformers.MetaClip2Config(
        text_config=text, vision_config={**VISION, "hidden_act": hidden_act}, projection_dim=DIM
    )
    return save(folder, "MetaClip2Model", config)


def build_altclip(folder: Path, *, tokenizer_context: int = 512) -> Path:
    rows = save_xlmr_tokenizer(folder, tokenizer_context)
    square(folder)
    text = {**TOWER, "vocab_size": rows, "max_position_embeddings": CONTEXT + 2, "project_dim": 20,
            "pad_token_id": 1, "hidden_dropout_prob": 0.1}  # fmt: skip
    config = transformers.AltCLIPConfig(text_config=text, vision_config=VISION, projection_dim=DIM)
    return save(folder, "AltCLIPModel", config)


def build_chinese_clip(folder: Path, *, tokenizer_context: int = CONTEXT) -> Path:
    rows = save_bert_tokenizer(folder, tokenizer_context)
    square(folder, "ChineseCLIP", size={"height": SIDE, "width": SIDE}, do_center_crop=False)
    text = {**TOWER, "vocab_size": rows, "max_position_embeddings": CONTEXT}
    config = transformers.ChineseCLIPConfig(text_config=text, vision_config=VISION, projection_dim=DIM)
    return save(folder, "ChineseCLIPModel", config)


def build_naflex(folder: Path, *, patches: int = 12) -> Path:
    build_siglip(folder, padding_side="right")  # for its tokenizer
    vocabulary = json.loads((folder / "config.json").read_text())["text_config"]["vocab_size"]
    Siglip2ImageProcessorPil(patch_size=8, max_num_patches=patches).save_pretrained(folder)
    config = transformers.Siglip2Config(
        text_config={**TOWER, "vocab_size": vocabulary, "max_position_embeddings": CONTEXT,
                     "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1},
        vision_config={**TOWER, "num_patches": 16, "patch_size": 8},
    )  # fmt: skip
    return save(folder, "Siglip2Model", config)


def build_dinov2(folder: Path, *, architecture: str = "Dinov2Model") -> Path:
    """Trained at 48 pixels by its position table, prepared at 32: the table is interpolated."""
    square(folder, "Bit", size={"shortest_edge": SIDE + 5}, **IMAGENET)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 48, "patch_size": 8}
    if "Registers" in architecture:
        return save(folder, architecture, transformers.Dinov2WithRegistersConfig(**sizes, num_register_tokens=3))
    return save(folder, architecture, transformers.Dinov2Config(**sizes))


def build_dinov2_with_registers(folder: Path) -> Path:
    return build_dinov2(folder, architecture="Dinov2WithRegistersModel")


def build_resnet(folder: Path, *, size: int = SIDE, architecture: str = "ResNetModel") -> Path:
    ConvNextImageProcessorPil(size={"shortest_edge": size}, crop_pct=0.875, **IMAGENET).save_pretrained(folder)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[16, DIM], depths=[1, 2], layer_type="bottleneck", num_labels=3
    )
    model = random_model(getattr(transformers, architecture), config, seed=3)
    with torch.no_grad():  # statistics that a trained network has, or inference would be scaled by ones
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(2))
    model.save_pretrained(folder)
    return folder


DUAL: dict[str, Callable[..., Path]] = {
    "clip": build_clip, "metaclip_2": build_metaclip_2, "siglip": build_siglip, "siglip2": build_naflex,
    "altclip": build_altclip, "chinese_clip": build_chinese_clip,
}  # fmt: skip
IMAGE_ONLY: dict[str, Callable[..., Path]] = {
    "dinov2": build_dinov2, "dinov2_with_registers": build_dinov2_with_registers, "resnet": build_resnet,
}  # fmt: skip


def own_images(folder: Path, images: Sequence[np.ndarray]) -> np.ndarray:
    """Image vectors by transformers' own processor and model, all in one batch."""
    named = json.loads((folder / "preprocessor_config.json").read_text())["image_processor_type"]
    processor = PROCESSORS[named.removesuffix("ImageProcessor")].from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    batch = processor(list(images), return_tensors="pt", input_data_format="channels_last")
    with torch.inference_mode():
        found = model.get_image_features(**batch) if hasattr(model, "get_image_features") else model(**batch)
    return found.pooler_output.flatten(1).numpy()


def own_texts(folder: Path, texts: Sequence[str], context: int = CONTEXT) -> np.ndarray:
    """Text vectors by transformers' own tokenizer and model, padded as the documentation of each says."""
    padding = "max_length" if "siglip" in json.loads((folder / "config.json").read_text())["model_type"] else "longest"
    model, tokenizer = (
        AutoModel.from_pretrained(folder, dtype=torch.float32).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    batch = tokenizer(list(texts), padding=padding, truncation=True, max_length=context, return_tensors="pt")
    with torch.inference_mode():
        return model.get_text_features(**batch).pooler_output.numpy()
