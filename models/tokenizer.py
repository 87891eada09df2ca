"""The tokenizer of a checkpoint, as a pure function from text to ids that is safe in threads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from models.errors import BrokenCheckpoint, MissingLibrary
from models.files import Checkpoint, first_line

Encode = Callable[[str], list[int]]

_PROBES = (
    "",
    "a photo of a cat",
    "A RED Car, parked (left) -- of TWO trucks!?",
    "naïve café \u201cquoted\u201d \u00bd \ufb01ne; 東京の猫 кошка قطة",
    "  spaces\tand\nlines  ",
    "e\u0301 \u00e9 \U0001f431 http://x.org/a_b-c?d=1&e=2 <tag> 12,345.67 don't",
)


@dataclass(frozen=True, slots=True)
class LoadedTokenizer:
    """What a text pipeline takes from a tokenizer of transformers.

    Args:
        encode: text to all its ids, special tokens included, without truncation or padding.
        prefix, suffix: the special tokens around each text.
        own: the tokenizer itself, for its settings.
    """

    encode: Encode = field(repr=False)
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    own: Any

    def digest(self, encode: Encode) -> str:
        """sha256 over the vocabulary and the ids that `encode` gives for a fixed set of texts: what the tokenizer does
        rather than how it is stored, so that a new version of the library keeps the digest."""
        content = [sorted(self.own.get_vocab().items()), [encode(text) for text in _PROBES]]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def load_tokenizer(checkpoint: Checkpoint) -> LoadedTokenizer:
    """Load the tokenizer beside a checkpoint's weights.

    Raises:
        MissingLibrary: the tokenizer needs sentencepiece.
        BrokenCheckpoint: no tokenizer.
    """
    from transformers import AutoTokenizer

    try:
        own = AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)
    except ImportError as error:
        raise MissingLibrary(
            f"the tokenizer of {checkpoint.model} needs a library that is not installed; "
            f"run `pip install sentencepiece protobuf` ({first_line(error)})"
        ) from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BrokenCheckpoint(f"the tokenizer of {checkpoint.model} cannot be loaded: {first_line(error)}") from error
    return LoadedTokenizer(_encoder_of(own), *_special_tokens(own), own)


def lowering(tokenizer: LoadedTokenizer) -> Encode:
    """`encode` with the text lower-cased first, where the checkpoint was trained so and its tokenizer does not do it.

    SigLIP and SigLIP2 were trained on lower-cased text. SigLIP2's fixed-resolution checkpoints name the Gemma
    tokenizer, in which transformers ignores their `do_lower_case`.
    """
    encode, own = tokenizer.encode, tokenizer.own
    declared = own.init_kwargs.get("do_lower_case", "Gemma" in type(own).__name__)
    if not declared or encode("A RED Car") == encode("a red car"):
        return encode
    return lambda text: encode(text.lower())


def _encoder_of(tokenizer: Any) -> Encode:
    """A private copy of the Rust tokenizer where there is one: nobody else can switch truncation on in it, which would
    both change the ids and fail other threads with "Already borrowed"."""
    if not tokenizer.is_fast:
        return lambda text: list(tokenizer(text, truncation=False, padding=False, verbose=False)["input_ids"])
    from tokenizers import Tokenizer

    own = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    own.no_truncation()
    own.no_padding()
    return lambda text: list(own.encode(text).ids)


def _special_tokens(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that the tokenizer puts before and after each text."""
    probe = tokenizer("a", return_special_tokens_mask=True, truncation=False, padding=False)
    ids, special = list(probe["input_ids"]), list(probe["special_tokens_mask"])
    first = special.index(0) if 0 in special else len(ids)
    last = len(ids) - special[::-1].index(0) if 0 in special else len(ids)
    return tuple(ids[:first]), tuple(ids[last:])
