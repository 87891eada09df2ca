"""Small random checkpoints of CLIP and SigLIP in the format of the hub."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.utils import logging

from benchmarks.checkpoints import clip_vocabulary

CORPUS = ["a photo of a red cube", "two small green spheres left of a large blue cone", "RED shoes!", "the cat"] * 8
CONTEXT, SIDE, DIM = 16, 32, 24
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}

torch.set_num_threads(1)
logging.disable_progress_bar()


@cache  # trained once: ties between merges fall differently from one training to the next
def tiny_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    return clip_vocabulary(CORPUS, 560)


def random_model(architecture: type, config: Any, seed: int) -> Any:
    """The same weights for the same seed, large enough that a wrong activation, mask or pixel shows in the vectors."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = architecture(config).eval()
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.15)
    return model


def build_clip(folder: Path, *, hidden_act: str = "quick_gelu", legacy_end: bool = False, seed: int = 0) -> Path:
    vocabulary, merges = dict(tiny_vocabulary()[0]), list(tiny_vocabulary()[1])
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CONTEXT)
    end = 2 if legacy_end else tokenizer.eos_token_id
    config = CLIPConfig(
        text_config={
            **TOWER, "vocab_size": len(vocabulary), "max_position_embeddings": CONTEXT, "hidden_act": hidden_act,
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": end,
        },
        vision_config={**TOWER, "image_size": SIDE, "patch_size": 8, "hidden_act": hidden_act},
        projection_dim=DIM,
    )  # fmt: skip
    model = random_model(CLIPModel, config, seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    sizes = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    CLIPImageProcessorPil(**sizes).save_pretrained(folder)
    return folder


@cache
def siglip_tokenizer() -> str:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=["<pad>", "</s>", "<unk>"], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer.to_str()


def build_siglip(folder: Path, *, masked: bool = False, padding_side: str = "right", resample: int = 3) -> Path:
    tokenizer = Tokenizer.from_str(siglip_tokenizer())
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="</s>", unk_token="<unk>", model_max_length=CONTEXT,
        model_input_names=["input_ids", "attention_mask"] if masked else ["input_ids"], padding_side=padding_side,
    )  # fmt: skip
    save_siglip(folder, vocabulary=tokenizer.get_vocab_size(), resample=resample)
    wrapped.save_pretrained(folder)
    return folder


def save_siglip(folder: Path, vocabulary: int, resample: int = 3) -> None:
    """A SigLIP checkpoint without its tokenizer."""
    config = SiglipConfig(
        text_config={
            **TOWER, "vocab_size": vocabulary, "max_position_embeddings": CONTEXT,
            "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
        },
        vision_config={**TOWER, "image_size": SIDE, "patch_size": 8},
    )  # fmt: skip
    model = random_model(SiglipModel, config, seed=1)
    model.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}, resample=resample).save_pretrained(folder)


def build_sentencepiece_siglip(folder: Path) -> Path:
    import sentencepiece
    from transformers import SiglipTokenizer

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 20), model_writer=model, vocab_size=36, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        minloglevel=2,
    )  # fmt: skip
    save_siglip(folder, vocabulary=36)
    (folder / "spiece.model").write_bytes(model.getvalue())
    SiglipTokenizer(
        vocab_file=str(folder / "spiece.model"), model_input_names=["input_ids"], model_max_length=CONTEXT
    ).save_pretrained(folder)
    return folder


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def copy_of(source: Path, target: Path) -> Path:
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target
