"""Cross-encoders of texts: query and candidate are read together by one tower with a head for relevance."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from models.checkpoint import open_checkpoint
from models.device import DTYPES, pick_device, pick_dtype
from models.errors import BrokenCheckpoint, InvalidInput, NonFinite, UnsupportedModel
from models.families.hub import load_config, load_module
from models.files import Checkpoint
from models.passport import library_versions
from models.protocols import Identity, Modality, Part, PreparedPart, Role
from models.scorer import check_pair
from models.tokenizer import LoadedTokenizer, load_tokenizer

__all__ = ["CrossEncoder", "load_cross_encoder"]

_QUERY_SHARE = 4
"""A query is cut at this part of the context, so that what is left for a candidate does not depend on the query."""
_LONGEST = 8192
"""Tokens of a pair where the checkpoint names no limit, or a larger one."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a tokenizer joins two texts: special tokens before, between and behind, and the segment of each place."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    behind: tuple[int, ...]
    segments: tuple[int, int, int, int, int] | None  # of before, query, between, candidate, behind

    @property
    def special(self) -> int:
        """Tokens beside those of the texts."""
        return len(self.before) + len(self.between) + len(self.behind)

    def join(self, query: Sequence[int], candidate: Sequence[int]) -> tuple[list[int], list[int]]:
        """Ids and segments of a pair."""
        parts = (self.before, query, self.between, candidate, self.behind)
        segments = self.segments or (0,) * 5
        return (
            [token for part in parts for token in part],
            [segment for part, segment in zip(parts, segments, strict=True) for _ in part],
        )


class CrossEncoder:
    """One cross-encoder on one device; conforms to `models.protocols.Scorer`.

    A head of one number is read through the logistic function, one of two classes as the softmax of the second.
    """

    takes: frozenset[tuple[Modality, Modality]] = frozenset({("text", "text")})

    def __init__(
        self, checkpoint: Checkpoint, network: Any, tokenizer: LoadedTokenizer, context: int, dtype: str,
        device: torch.device,
    ) -> None:  # fmt: skip
        self.device = str(device)
        self._network, self._target, self._tokenizer = network, device, tokenizer
        self._layout = layout = _layout_of(checkpoint, tokenizer)
        self._most: dict[Role, int] = {"query": max(1, context // _QUERY_SHARE)}
        self._most["candidate"] = context - layout.special - self._most["query"]
        if self._most["candidate"] < 1:
            raise BrokenCheckpoint(f"{checkpoint.model} has a context of {context} tokens, too few for a pair of texts")
        self._pad = tokenizer.own.pad_token_id or 0
        rules = [layout.before, layout.between, layout.behind, layout.segments, context, _QUERY_SHARE]
        self.identity = Identity(
            model=checkpoint.model,
            revision=checkpoint.revision,
            kind=f"{checkpoint.kind} cross-encoder",
            weights=checkpoint.weights_digest(),
            tokenizer=hashlib.sha256(json.dumps([tokenizer.digest(tokenizer.encode), rules]).encode()).hexdigest(),
            preprocessing=None,
            dtype=dtype,
            source=checkpoint.source,
            libraries=library_versions(),
        )

    def prepare(self, part: Part, role: Role) -> PreparedPart:
        """Tokenise a text; a query is cut at a quarter of the context, a candidate at what that leaves.

        Raises:
            InvalidInput: an image, an empty text, or one that is not Unicode.
        """
        if isinstance(part, np.ndarray):
            raise InvalidInput(f"{self.identity.model} compares texts only; the {role} is an image")
        if not part.strip():
            raise InvalidInput(f"the text of the {role} is empty; leave it out")
        ids = _content(self._tokenizer, part, role)
        most = self._most[role]
        return PreparedPart("text", ids[:most], len(ids) > most, min(len(ids), most))

    def score(self, query: PreparedPart, candidates: Sequence[PreparedPart]) -> np.ndarray:
        """The relevance of each candidate. Give candidates of like length: a batch is padded to its longest.

        Raises:
            InvalidInput: not two texts.
            NonFinite: NaN or infinity, with the indices.
        """
        for candidate in candidates:
            check_pair(self.takes, query.modality, candidate.modality)
        if not candidates:
            return np.empty(0, np.float32)
        with torch.inference_mode():
            logits = self._network(**self._batch(query, candidates)).logits.double().cpu().numpy()
        odds = logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]
        bad = np.flatnonzero(~np.isfinite(odds))
        if len(bad):
            raise NonFinite(bad.tolist(), "scores", self.identity.dtype)
        return (0.5 * (1 + np.tanh(odds / 2))).astype(np.float32)  # the logistic function, without overflow

    def _batch(self, query: PreparedPart, candidates: Sequence[PreparedPart]) -> dict[str, torch.Tensor]:
        pairs = [self._layout.join(query.value, candidate.value) for candidate in candidates]
        shape = len(pairs), max(len(ids) for ids, _ in pairs)
        ids, mask, segments = np.full(shape, self._pad, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for row, (tokens, kinds) in enumerate(pairs):
            ids[row, : len(tokens)], mask[row, : len(tokens)], segments[row, : len(tokens)] = tokens, 1, kinds
        batch = {"input_ids": ids, "attention_mask": mask}
        if self._layout.segments is not None:
            batch["token_type_ids"] = segments
        return {name: torch.from_numpy(value).to(self._target) for name, value in batch.items()}


def load_cross_encoder(
    model: str, revision: str | None = None, device: str = "auto", dtype: str | None = None
) -> CrossEncoder:
    """Load a checkpoint of transformers' AutoModelForSequenceClassification, and score one pair to see that it works.

    Args:
        model: a hub id ("cross-encoder/ms-marco-MiniLM-L6-v2", "BAAI/bge-reranker-base") or a folder.
        revision: branch, tag or commit of a hub repository.
        device: "auto", "cpu", "cuda" or "cuda:1".
        dtype: "float32", "bfloat16" or "float16"; None is float32 on a CPU and bfloat16 on a GPU.

    Raises:
        ModelError: one of the tree in `models.errors`, with what to do about it.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

    target = pick_device(device)
    number_format = pick_dtype(dtype, target)
    checkpoint = open_checkpoint(model, revision, kinds=MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)
    config = load_config(checkpoint)
    if config.num_labels not in (1, 2):
        raise UnsupportedModel(
            f"{checkpoint.model} sorts into {config.num_labels} classes; a scorer has one number, or the two classes "
            f"irrelevant and relevant"
        )
    tokenizer = load_tokenizer(checkpoint)
    if getattr(config, "pad_token_id", None) is None:
        # A decoder is read at its last token, which transformers finds by the padding's id.
        config.pad_token_id = tokenizer.own.pad_token_id or 0
    network = load_module(
        checkpoint, "AutoModelForSequenceClassification", target, DTYPES[number_format], config=config
    )
    scorer = CrossEncoder(checkpoint, network, tokenizer, _context(config, tokenizer), number_format, target)
    scorer.score(scorer.prepare("a photo", "query"), [scorer.prepare("a photo of a cat", "candidate")])
    return scorer


def _context(config: Any, tokenizer: LoadedTokenizer) -> int:
    """The longest pair, in tokens."""
    most = min(_LONGEST, tokenizer.own.model_max_length)
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        # RoBERTa and its kin count positions from behind the padding's id.
        shifted = "roberta" in config.model_type or config.model_type == "camembert"
        most = min(most, positions - (config.pad_token_id or 0) - 1 if shifted else positions)
    return int(most)


def _content(tokenizer: LoadedTokenizer, text: str, role: str) -> list[int]:
    """Ids of a text alone, without special tokens."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"the text of the {role} holds a lone surrogate at character {error.start}; decode it as UTF-8"
        ) from error
    ids = tokenizer.encode(text)
    return ids[len(tokenizer.prefix) : len(ids) - len(tokenizer.suffix)]


def _layout_of(checkpoint: Checkpoint, tokenizer: LoadedTokenizer) -> _Layout:
    """What the tokenizer puts around two texts, found by trying.

    Raises:
        UnsupportedModel: it joins them in a way that cannot be told from the outside.
    """
    own = tokenizer.own
    query, candidate = _content(tokenizer, "a", "query"), _content(tokenizer, "b", "candidate")
    joined = own("a", "b", truncation=False, padding=False, return_token_type_ids=True)
    ids, kinds = list(joined["input_ids"]), list(joined.get("token_type_ids") or [])
    for first in range(len(ids)):
        second = next(
            (
                place for place in range(first + len(query), len(ids) - len(candidate) + 1)
                if ids[first : first + len(query)] == query and ids[place : place + len(candidate)] == candidate
            ), None,
        )  # fmt: skip
        if second is None:
            continue
        bounds = (0, first, first + len(query), second, second + len(candidate), len(ids))
        pieces = [ids[low:high] for low, high in pairwise(bounds)]
        segments = None
        if kinds and "token_type_ids" in own.model_input_names:
            found = [kinds[low:high] for low, high in pairwise(bounds)]
            filled = [piece[0] if piece else 0 for piece in found]
            segments = (filled[0], filled[1], filled[2], filled[3], filled[4])
        layout = _Layout(tuple(pieces[0]), tuple(pieces[2]), tuple(pieces[4]), segments)
        if layout.join(query, candidate)[0] == ids:
            return layout
    raise UnsupportedModel(f"the tokenizer of {checkpoint.model} does not join two texts token by token")
