"""Vision-language models as scorers: asked whether a picture shows something, the odds of Yes against No.

After INQUIRE (Vendrow et al. 2024) and the relevance scores of RAG rerankers: the score is p(Yes) / (p(Yes) + p(No)) of
the first token of the answer, so it needs one forward and no generation.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from models.checkpoint import open_checkpoint
from models.device import DTYPES, pick_device, pick_dtype
from models.errors import BrokenCheckpoint, InvalidInput, MissingLibrary, NonFinite, UnsupportedModel
from models.families.hub import load_module
from models.files import Checkpoint, first_line
from models.passport import library_versions
from models.protocols import Identity, Modality, Part, PreparedPart, Role
from models.scorer import check_pair

__all__ = ["QUESTION", "YesNoScorer", "load_yes_no"]

QUESTION = "Does this picture show the following? Answer Yes or No.\n{query}"
ANSWERS = ("Yes", "No")
MOST_CHARACTERS = 2000
"""Of a query: what is longer is cut, and said so."""
LONGEST_SIDE = 1344
"""Pixels: larger pictures are reduced before the model's own processor sees them, which bounds what waits in memory."""


class YesNoScorer:
    """One vision-language model on one device; conforms to `models.protocols.Scorer`.

    Pairs whose inputs have the same shape share a forward without padding, so a score does not depend on its batch.
    """

    takes: frozenset[tuple[Modality, Modality]] = frozenset({("text", "image")})

    def __init__(self, checkpoint: Checkpoint, network: Any, processor: Any, dtype: str, device: torch.device) -> None:
        self.device = str(device)
        self._network, self._processor, self._target = network, processor, device
        self._template = _template(checkpoint, processor)
        self._yes, self._no = _answers(checkpoint, processor.tokenizer)
        own = {*processor.tokenizer.all_special_tokens, getattr(processor, "image_token", None)}
        self._control = sorted(token for token in own if token)
        vocabulary = sorted(processor.tokenizer.get_vocab().items())
        images = processor.image_processor.to_dict()
        self.identity = Identity(
            model=checkpoint.model,
            revision=checkpoint.revision,
            kind=f"{checkpoint.kind} yes/no",
            weights=checkpoint.weights_digest(),
            tokenizer=_digest([vocabulary, self._template, self._yes, self._no]),
            preprocessing=_digest([{k: images[k] for k in sorted(images)}, LONGEST_SIDE]),
            dtype=dtype,
            source=checkpoint.source,
            libraries=library_versions(),
        )

    def prepare(self, part: Part, role: Role) -> PreparedPart:
        """A query is a text, a candidate an image; large ones are reduced.

        Raises:
            InvalidInput: the other way round, an empty text, one that is not Unicode, or not an RGB image.
        """
        if isinstance(part, np.ndarray):
            if role == "query":
                raise InvalidInput(f"{self.identity.model} is asked in words; the query is an image")
            return PreparedPart("image", _bounded(part))
        if role == "candidate":
            raise InvalidInput(f"{self.identity.model} looks at images; the candidate is a text")
        text = " ".join(part.split())
        if not text:
            raise InvalidInput(f"the text of the {role} is empty; leave it out")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(f"text holds a lone surrogate at character {error.start}; decode it as UTF-8") from error
        control = next((token for token in self._control if token in text), None)
        if control is not None:  # it would be read as the end of the question, or as another image
            raise InvalidInput(f"the text of the {role} holds {control!r}, which means something else to the model")
        return PreparedPart("text", text[:MOST_CHARACTERS], len(text) > MOST_CHARACTERS)

    def score(self, query: PreparedPart, candidates: Sequence[PreparedPart]) -> np.ndarray:
        """How sure the model is that each image shows the query.

        Raises:
            InvalidInput: not a text and images.
            NonFinite: NaN or infinity, with the indices.
        """
        for candidate in candidates:
            check_pair(self.takes, query.modality, candidate.modality)
        odds = np.zeros(len(candidates), np.float64)
        asked = self._template.replace("{query}", query.value)
        shapes: dict[tuple[Any, ...], list[tuple[int, dict[str, torch.Tensor]]]] = defaultdict(list)
        for place, candidate in enumerate(candidates):
            inputs = dict(self._processor(images=[candidate.value], text=[asked], return_tensors="pt"))
            shapes[tuple((name, tuple(value.shape)) for name, value in sorted(inputs.items()))].append((place, inputs))
        for group in shapes.values():
            batch = {name: torch.cat([inputs[name] for _, inputs in group]) for name in group[0][1]}
            odds[[place for place, _ in group]] = self._odds(batch)
        bad = np.flatnonzero(~np.isfinite(odds))
        if len(bad):
            raise NonFinite(bad.tolist(), "scores", self.identity.dtype)
        return (0.5 * (1 + np.tanh(odds / 2))).astype(np.float32)

    def _odds(self, batch: dict[str, torch.Tensor]) -> np.ndarray:
        """Natural-log odds of Yes against No as the next token."""
        dtype = self._network.dtype
        given = {
            name: value.to(self._target, dtype) if value.is_floating_point() else value.to(self._target)
            for name, value in batch.items()
        }
        with torch.inference_mode():
            logits = self._network(**given, logits_to_keep=1).logits[:, -1].double()
        found: np.ndarray = (logits[:, self._yes] - logits[:, self._no]).cpu().numpy()
        return found


def load_yes_no(model: str, revision: str | None = None, device: str = "auto", dtype: str | None = None) -> YesNoScorer:
    """Load a checkpoint of transformers' AutoModelForImageTextToText, and ask about one picture to see that it works.

    Args:
        model: a hub id ("llava-hf/llava-1.5-7b-hf", "HuggingFaceTB/SmolVLM-256M-Instruct") or a folder.
        revision: branch, tag or commit of a hub repository.
        device: "auto", "cpu", "cuda" or "cuda:1".
        dtype: "float32", "bfloat16" or "float16"; None is float32 on a CPU and bfloat16 on a GPU.

    Raises:
        ModelError: one of the tree in `models.errors`, with what to do about it.
    """
    from transformers import AutoProcessor
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    target = pick_device(device)
    number_format = pick_dtype(dtype, target)
    checkpoint = open_checkpoint(model, revision, kinds=MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
    try:
        processor = AutoProcessor.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)
    except ImportError as error:
        raise MissingLibrary(f"the processor of {checkpoint.model} needs a library: {first_line(error)}") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BrokenCheckpoint(f"the processor of {checkpoint.model} cannot be loaded: {first_line(error)}") from error
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        raise UnsupportedModel(f"{checkpoint.model} has no processor of both images and text")
    network = load_module(checkpoint, "AutoModelForImageTextToText", target, DTYPES[number_format])
    scorer = YesNoScorer(checkpoint, network, processor, number_format, target)
    black = scorer.prepare(np.zeros((64, 64, 3), np.uint8), "candidate")
    scorer.score(scorer.prepare("a photo", "query"), [black])
    return scorer


def _template(checkpoint: Checkpoint, processor: Any) -> str:
    """The prompt with `{query}` in it, in the model's own chat format."""
    if getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None):
        content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
        made: str = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        if "{query}" in made:
            return made
    token = getattr(processor, "image_token", None) or getattr(processor.tokenizer, "image_token", None)
    if token is None:
        raise UnsupportedModel(
            f"{checkpoint.model} has neither a chat template nor an image token, so nobody knows how to ask it"
        )
    return f"{token}\n{QUESTION}\nAnswer:"


def _answers(checkpoint: Checkpoint, tokenizer: Any) -> tuple[int, int]:
    """The first tokens of "Yes" and "No" as an answer begins with them."""
    yes, no = (tokenizer.encode(word, add_special_tokens=False) for word in ANSWERS)
    unknown = tokenizer.unk_token_id
    if not yes or not no or yes[0] == no[0] or unknown in (yes[0], no[0]):
        raise UnsupportedModel(f"the tokenizer of {checkpoint.model} does not tell Yes from No by their first token")
    return yes[0], no[0]


def _bounded(image: np.ndarray) -> np.ndarray:
    """A copy of at most `LONGEST_SIDE` pixels on its longer side. Raises InvalidInput."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InvalidInput(f"expected a uint8 RGB image of shape (height, width, 3), got {image.dtype} {image.shape}")
    height, width = image.shape[:2]
    scale = LONGEST_SIDE / max(height, width)
    # No processor takes a side below a few pixels, nor an aspect without bounds.
    high, wide = (max(28, round(side * min(1.0, scale))) for side in (height, width))
    high, wide = max(high, -(-wide // 40)), max(wide, -(-high // 40))
    if (high, wide) == (height, width):
        return image.copy()
    return np.asarray(Image.fromarray(image).resize((wide, high), Image.Resampling.BICUBIC))


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
