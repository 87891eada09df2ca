"""The text side of a checkpoint: its tokenizer, truncation, padding and what the text tower pools.

CLIP pools at the end token of a causal tower, so padding after it changes nothing and a batch is padded to its longest
text. SigLIP pools the last position of a tower that sees all of them, padding too. It was trained on texts padded to
the full context, and any other padding gives other vectors without a word of warning (mteb PR 1424: from 10 to 80).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from models.checkpoint import Checkpoint, first_line
from models.errors import BrokenCheckpoint, InvalidInput, MissingLibrary

if TYPE_CHECKING:
    import torch

_LEGACY_EOS = 2
"""CLIP configurations older than transformers PR 24773 say eos_token_id 2; for them the largest id is pooled."""
_PROBES = (
    "",
    "a photo of a cat",
    "A RED Car, parked (left) -- of TWO trucks!?",
    "naïve café \u201cquoted\u201d \u00bd \ufb01ne; 東京の猫 кошка قطة",
    "  spaces\tand\nlines  ",
    "e\u0301 \u00e9 \U0001f431 http://x.org/a_b-c?d=1&e=2 <tag> 12,345.67 don't",
)


@dataclass(frozen=True, slots=True)
class PreparedText:
    """One text as token ids.

    Args:
        ids: what the model reads, special tokens included, at most the context length.
        tokens: how many there were before truncation.
        truncated: whether `tokens` was more than the context length.
    """

    ids: list[int]
    tokens: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class TextPipeline:
    """How one checkpoint's texts are prepared and batched. Immutable and safe in threads.

    Args:
        encode: text to all its ids, special tokens included, without truncation or padding.
        prefix, suffix: the special tokens around each text.
        context_length: the most ids that the text tower takes.
        vocabulary: rows of the tower's token table.
        pad_id: the id that fills a batch; for CLIP the end token, which pooling finds first at its right place.
        pad_to_context: pad each text to the context length (SigLIP), else to the longest in its batch (CLIP).
        pad_left: fill before the text instead of after it.
        masked: hide the padding from attention (SigLIP checkpoints whose tokenizer says so).
        keep_end: cut the beginning of long texts instead of their end.
        pooling: which position becomes the vector, in words.
        digest: sha256 over the vocabulary and over the ids of a fixed set of texts; independent of library versions.
    """

    encode: Callable[[str], list[int]] = field(repr=False)
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    context_length: int
    vocabulary: int
    pad_id: int
    pad_to_context: bool
    pad_left: bool
    masked: bool
    keep_end: bool
    pooling: str
    digest: str

    @property
    def padding(self) -> str:
        """The padding rule in words."""
        length = str(self.context_length) if self.pad_to_context else "longest in batch"
        side = "left" if self.pad_left else "right"
        return f"{length}, {side}, id {self.pad_id}, {'masked' if self.masked else 'not masked'}"

    def prepare(self, text: str) -> PreparedText:
        """Tokenise one text, and cut it to the context length as the tokenizer of transformers would.

        Raises:
            InvalidInput: the text is not valid Unicode, or holds a token that the model has no row for.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(f"text holds a lone surrogate at character {error.start}; decode it as UTF-8") from error
        ids = self.encode(text)
        tokens = len(ids)
        if tokens > self.context_length:
            content = ids[len(self.prefix) : tokens - len(self.suffix)]
            keep = self.context_length - len(self.prefix) - len(self.suffix)
            ids = [*self.prefix, *(content[-keep:] if self.keep_end else content[:keep]), *self.suffix]
        if max(ids, default=0) >= self.vocabulary:
            raise InvalidInput(
                f"token id {max(ids)} of the text is outside the model's table of {self.vocabulary} rows"
            )
        return PreparedText(ids, tokens, tokens > self.context_length)

    def batch(self, texts: Sequence[PreparedText]) -> dict[str, torch.Tensor]:
        """Pad texts to one shape.

        Returns:
            "input_ids" (n, length) and, if `masked`, "attention_mask" of the same shape; int64 on the CPU.
        """
        import torch

        length = self.context_length if self.pad_to_context else max(1, *(len(text.ids) for text in texts))
        ids = torch.full((len(texts), length), self.pad_id, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, text in enumerate(texts):
            place = slice(length - len(text.ids), length) if self.pad_left else slice(0, len(text.ids))
            ids[row, place] = torch.tensor(text.ids, dtype=torch.int64)
            mask[row, place] = 1
        return {"input_ids": ids, "attention_mask": mask} if self.masked else {"input_ids": ids}


def load_text(checkpoint: Checkpoint, config: Any) -> TextPipeline:
    """Load the tokenizer of a checkpoint with the rules of its kind.

    Args:
        checkpoint: where the tokenizer's files are.
        config: what `load_config` gave for it.

    Raises:
        MissingLibrary: the tokenizer needs sentencepiece.
        BrokenCheckpoint: no tokenizer, or one that does not fit the text tower.
    """
    tokenizer = _load_tokenizer(checkpoint)
    encode = _encoder_of(tokenizer)
    prefix, suffix = _special_tokens(tokenizer)
    tower, clip = config.text_config, checkpoint.kind == "clip"
    context_length = min(tower.max_position_embeddings, tokenizer.model_max_length)
    if context_length <= len(prefix) + len(suffix):
        raise BrokenCheckpoint(f"{checkpoint.model} has a context of {context_length} tokens, too few for any text")
    if clip and tower.eos_token_id not in (_LEGACY_EOS, *suffix):
        raise BrokenCheckpoint(
            f"{checkpoint.model} pools texts at token {tower.eos_token_id}, but its tokenizer ends them with "
            f"{list(suffix)}: every text would get one vector. Fix eos_token_id in config.json or the tokenizer"
        )
    if not clip and _should_lower(tokenizer, encode):
        encode = _lowering(encode)
    return TextPipeline(
        encode=encode,
        prefix=prefix,
        suffix=suffix,
        context_length=context_length,
        vocabulary=tower.vocab_size,
        pad_id=suffix[-1] if clip and suffix else tokenizer.pad_token_id or 0,
        pad_to_context=not clip,
        pad_left=not clip and tokenizer.padding_side == "left",
        masked=not clip and "attention_mask" in tokenizer.model_input_names,
        keep_end=tokenizer.truncation_side == "left",
        pooling=_pooling(tower.eos_token_id) if clip else "last position",
        digest=_digest(tokenizer.get_vocab(), encode),
    )


def _load_tokenizer(checkpoint: Checkpoint) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)
    except ImportError as error:
        raise MissingLibrary(
            f"the tokenizer of {checkpoint.model} needs a library that is not installed; "
            f"run `pip install sentencepiece protobuf` ({first_line(error)})"
        ) from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BrokenCheckpoint(f"the tokenizer of {checkpoint.model} cannot be loaded: {first_line(error)}") from error


def _encoder_of(tokenizer: Any) -> Callable[[str], list[int]]:
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


def _should_lower(tokenizer: Any, encode: Callable[[str], list[int]]) -> bool:
    """SigLIP and SigLIP2 were trained on lower-cased text. SigLIP2's fixed-resolution checkpoints name the Gemma
    tokenizer, in which transformers ignores their `do_lower_case`."""
    declared = tokenizer.init_kwargs.get("do_lower_case", "Gemma" in type(tokenizer).__name__)
    return bool(declared) and encode("A RED Car") != encode("a red car")


def _lowering(encode: Callable[[str], list[int]]) -> Callable[[str], list[int]]:
    return lambda text: encode(text.lower())


def _pooling(eos_token_id: int) -> str:
    return "largest id" if eos_token_id == _LEGACY_EOS else f"first id {eos_token_id}"


def _digest(vocabulary: dict[str, int], encode: Callable[[str], list[int]]) -> str:
    """What the tokenizer does rather than how it is stored, so that a new tokenizers version keeps the digest."""
    content = [sorted(vocabulary.items()), [encode(text) for text in _PROBES]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
