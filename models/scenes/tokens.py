"""The tokenizer: one token for each word of the three languages, with CLIP's start and end tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from .lexicon import ADJECTIVES, LANGUAGES, NOUNS, NUMBERS, PHRASES, RELATION_WORDS, adjective
from .vocabulary import BACKGROUNDS, COLOURS, SIZES, STYLES, TEXTURES, WORDS

PAD, UNKNOWN, START, END = "<pad>", "<unk>", "<|startoftext|>", "<|endoftext|>"
PAD_ID, UNKNOWN_ID, START_ID, END_ID = 0, 1, 2, 3
FULL = "<|full|>"
"""The prompt that asks the captioner for the full caption; only its tokenizer has it."""
"""``END_ID`` must not be 2: a CLIP text model with eos_token_id 2 pools at the largest token id instead."""
CONTEXT: Final = 64


def words() -> list[str]:
    """Every word that a caption can hold, lower case, English first."""
    found: dict[str, None] = {}

    def add(text: str) -> None:
        found.update(dict.fromkeys(text.lower().replace("{}", " ").split()))

    for language in LANGUAGES:
        for noun in NOUNS[language].values():
            add(f"{noun.one} {noun.many}")
        for word in (*COLOURS, *SIZES, *TEXTURES, *BACKGROUNDS):
            for gender in "mfn":
                add(adjective(word, language, gender))
                add(adjective(word, language, gender, plural=True))
        for word in BACKGROUNDS if language == "de" else ():
            add(ADJECTIVES["de"].get(word, word) + "em")
        for phrase in (*NUMBERS[language], *RELATION_WORDS[language].values()):
            add(phrase)
        for phrase in PHRASES[language].values():
            add(phrase.replace("{}em", ""))
        add({"en": "a an the and", "de": "ein eine und", "es": "un una y"}[language])
    for word in (*WORDS, *STYLES):
        add(word)
    return list(found)


def build_tokenizer(*, punctuation: bool = False) -> Tokenizer:
    """A lower-casing word tokenizer; a word it does not know becomes ``<unk>``.

    With ``punctuation``, commas and colons are tokens (what is written reads well), and FULL is one.
    """
    vocabulary = {PAD: PAD_ID, UNKNOWN: UNKNOWN_ID, START: START_ID, END: END_ID}
    for word in (*words(), *((",", ":", FULL) if punctuation else ())):
        vocabulary.setdefault(word, len(vocabulary))
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    kept = r"[^\w\s,:]|_" if punctuation else r"[^\w\s]|_"
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Lowercase(), normalizers.Replace(Regex(kept), " ")]
    )
    tokenizer.pre_tokenizer = (
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("[,:]"), "isolated")])
        if punctuation
        else pre_tokenizers.WhitespaceSplit()
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}",
        pair=f"{START} $A {END} $B {END}",
        special_tokens=[(START, START_ID), (END, END_ID)],
    )
    tokenizer.add_special_tokens([PAD, UNKNOWN, START, END, *([FULL] if punctuation else [])])
    if punctuation:
        marks = [decoders.Replace(f" {mark}", mark) for mark in ",:"]
        tokenizer.decoder = decoders.Sequence([decoders.WordPiece(cleanup=False), *marks, decoders.Fuse()])
    return tokenizer


def save_tokenizer(folder: Path, tokenizer: Tokenizer | None = None, context: int = CONTEXT) -> None:
    """Write tokenizer.json and tokenizer_config.json, which ``AutoTokenizer`` loads."""
    (tokenizer or build_tokenizer()).save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": START,
        "eos_token": END,
        "unk_token": UNKNOWN,
        "pad_token": PAD,
        "padding_side": "right",
        "model_max_length": context,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
