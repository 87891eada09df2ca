"""The text side of a checkpoint: truncation, padding and what the text tower pools.

CLIP pools at the end token of a causal tower, so padding after it changes nothing and a batch is padded to its longest
text. SigLIP pools the last position of a tower that sees all of them, padding too. It was trained on texts padded to
the full context, and any other padding gives other vectors without a word of warning (mteb PR 1424: from 10 to 80).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from models.errors import BrokenCheckpoint, InvalidInput
from models.files import Checkpoint
from models.tokenizer import Encode, load_tokenizer, lowering

if TYPE_CHECKING:
    import torch

Padding = Literal["longest", "context", "masked"]
"""How a batch of texts is filled: "longest", behind the end token of a causal tower, which does not see it; "context",
to the full context, which the tower was trained on and sees; "masked", to the longest, hidden from attention."""


@dataclass(frozen=True, slots=True)
class TextRules:
    """What a family and its configuration say about texts; the tokenizer adds the rest.

    Args:
        padding: see `Padding`.
        context_length: the most ids that the text tower takes; a tokenizer that says less wins.
        vocabulary: rows of the tower's token table.
        pooling: which position becomes the vector, in words.
        end_id: the id whose first position is pooled; every text must end with it. None: pooled otherwise.
        pad_id: the id that the tower takes for padding. None: the tokenizer's, or the end token for "longest".
        lower: lower-case texts as the tokenizer declares.
        clean: what is done to a text before it is tokenised.
        heed_tokenizer: whether what the tokenizer says of context length and mask counts.
    """

    padding: Padding
    context_length: int
    vocabulary: int
    pooling: str
    end_id: int | None = None
    pad_id: int | None = None
    lower: bool = False
    clean: Callable[[str], str] | None = None
    heed_tokenizer: bool = True


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

    encode: Encode = field(repr=False)
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
        ids = np.full((len(texts), length), self.pad_id, np.int64)
        mask = np.zeros_like(ids)
        for row, text in enumerate(texts):
            place = slice(length - len(text.ids), length) if self.pad_left else slice(0, len(text.ids))
            ids[row, place] = text.ids
            mask[row, place] = 1
        batch = {"input_ids": ids, "attention_mask": mask} if self.masked else {"input_ids": ids}
        return {name: torch.from_numpy(values) for name, values in batch.items()}


def load_text(checkpoint: Checkpoint, rules: TextRules) -> TextPipeline:
    """Load the tokenizer of a checkpoint, and hold it against the rules of its text tower.

    Raises:
        MissingLibrary: the tokenizer needs sentencepiece.
        BrokenCheckpoint: no tokenizer, or one that does not fit the text tower.
    """
    name, tokenizer = checkpoint.model, load_tokenizer(checkpoint)
    own, prefix, suffix = tokenizer.own, tokenizer.prefix, tokenizer.suffix
    context_length = min(rules.context_length, own.model_max_length) if rules.heed_tokenizer else rules.context_length
    if context_length <= len(prefix) + len(suffix):
        raise BrokenCheckpoint(f"{name} has a context of {context_length} tokens, too few for any text")
    if rules.end_id is not None and rules.end_id not in suffix:
        raise BrokenCheckpoint(
            f"{name} pools texts at token {rules.end_id}, but its tokenizer ends them with {list(suffix)}: every text "
            f"would get one vector. Fix eos_token_id in config.json or the tokenizer"
        )
    pad_id = suffix[-1] if rules.padding == "longest" and suffix else own.pad_token_id or 0
    if rules.pad_id is not None:
        if rules.padding == "masked" and pad_id != rules.pad_id:
            raise BrokenCheckpoint(
                f"{name} pads texts with token {pad_id}, but its text tower takes {rules.pad_id} for padding; fix "
                f"pad_token_id in config.json or the tokenizer"
            )
        pad_id = rules.pad_id
    encode = lowering(tokenizer) if rules.lower else tokenizer.encode
    if rules.clean is not None:
        encode = _cleaning(encode, rules.clean)
    seen = rules.padding == "context"  # then the tokenizer says on which side
    return TextPipeline(
        encode=encode,
        prefix=prefix,
        suffix=suffix,
        context_length=context_length,
        vocabulary=rules.vocabulary,
        pad_id=pad_id,
        pad_to_context=seen,
        pad_left=seen and own.padding_side == "left",
        masked=rules.padding == "masked"
        or (seen and rules.heed_tokenizer and "attention_mask" in own.model_input_names),
        keep_end=own.truncation_side == "left",
        pooling=rules.pooling,
        digest=tokenizer.digest(encode),
    )


def _cleaning(encode: Encode, clean: Callable[[str], str]) -> Encode:
    return lambda text: encode(clean(text))
