"""Checkpoints with random weights in the format of Hugging Face CLIP: speed does not depend on what a model has learnt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.utils import logging

CONTEXT = 77
WORDS = ["a", "the", "red", "green", "blue", "small", "large", "photo", "of", "two", "three", "dogs", "cats", "shoes",
         "on", "in", "under", "table", "chair", "with", "left", "right", "woman", "man", "street", "city", "night", "old",
         "new", "wooden", "shiny", "round", "square", "car", "tree", "house", "river", "mountain", "light"]  # fmt: skip
"""Each is one token."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a CLIP model.

    Args:
        image: (width, layers, heads, side of a patch) of the vision tower; images are 224 x 224.
        text: (width, layers, heads) of the text tower; 77 tokens.
        dim: of the vectors.
    """

    image: tuple[int, int, int, int]
    text: tuple[int, int, int]
    dim: int

    @property
    def image_flops(self) -> float:
        """Floating-point operations of the vision tower for one image: 2 for each weight and token, and attention."""
        width, layers, _, patch = self.image
        tokens = (224 // patch) ** 2 + 1
        layer = 2 * 12 * width**2 * tokens + 4 * tokens**2 * width
        return float(layers * layer + 2 * 3 * patch**2 * width * (tokens - 1))


SMALL = Shape(image=(192, 5, 6, 16), text=(256, 4, 4), dim=256)
"""A vision tower of the width and depth of the bundled one, at 224 pixels."""
VIT_B_32 = Shape(image=(768, 12, 12, 32), text=(512, 12, 8), dim=512)
VIT_L_14 = Shape(image=(1024, 24, 16, 14), text=(768, 12, 12), dim=768)


def build(folder: Path, shape: Shape) -> Path:
    """Write a checkpoint; returns its folder."""
    logging.disable_progress_bar()
    vocabulary, merges = clip_vocabulary([*WORDS, " ".join(WORDS)], 2000)
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CONTEXT)
    width, layers, heads, patch = shape.image
    words_wide, word_layers, word_heads = shape.text
    config = CLIPConfig(
        vision_config={
            "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers,
            "num_attention_heads": heads, "image_size": 224, "patch_size": patch,
        },
        text_config={
            "hidden_size": words_wide, "intermediate_size": 4 * words_wide, "num_hidden_layers": word_layers,
            "num_attention_heads": word_heads, "max_position_embeddings": CONTEXT, "vocab_size": len(vocabulary),
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        },
        projection_dim=shape.dim,
    )  # fmt: skip
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        CLIPModel(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224}).save_pretrained(folder)
    return folder


def text_of(number: int, tokens: int) -> str:
    """A text of its own for each number, of so many tokens with the two around it; at least 5."""
    words, left = [], number
    for _ in range(tokens - 2):
        left, at = divmod(left, len(WORDS))
        words.append(WORDS[at])
    assert left == 0, f"{tokens} tokens are too few for {number} texts"
    return " ".join(words)


def clip_vocabulary(texts: Sequence[str], size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A vocabulary as CLIP's tokenizer has it, trained on texts: (token to id, merges in order).

    Args:
        texts: what it is to be good at.
        size: tokens that are learnt; single bytes and special tokens come beside them.
    """
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    vocabulary: dict[str, int] = model["vocab"]
    for character in sorted(alphabet):
        vocabulary.setdefault(f"{character}</w>", len(vocabulary))
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    return vocabulary, [tuple(pair) for pair in model["merges"]]
