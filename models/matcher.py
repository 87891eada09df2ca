"""Matchers of BLIP format: whether a text is true of an image, with cross attention between the two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from models.blip import BlipCheckpoint, open_blip
from models.device import DTYPES, pick_device, pick_dtype
from models.errors import InvalidInput, NonFinite
from models.pixels import PixelBatch
from models.protocols import Modality, Part, PreparedPart, Role
from models.scorer import check_pair
from models.text import PreparedText, TextPipeline, TextRules, load_text

__all__ = ["BlipMatcher", "load_matcher"]

_PARTS = ("vision_model.", "text_encoder.", "itm_head.", "vision_proj.", "text_proj.")


class BlipMatcher:
    """One matcher on one device; conforms to `models.protocols.Scorer`.

    It reads image and text together, so it tells what two vectors lose (which colour belongs to which shape, how many,
    what is left of what), at the price of a forward for each pair.
    """

    takes: frozenset[tuple[Modality, Modality]] = frozenset({("text", "image"), ("image", "text")})

    def __init__(
        self, opened: BlipCheckpoint, network: Any, text: TextPipeline, dtype: str, device: torch.device
    ) -> None:
        self.identity = opened.identity(text.digest, dtype)
        self.device = str(device)
        self._image, self._text, self._network, self._target = opened.image, text, network, device
        self._pixels = PixelBatch(opened.image, device, DTYPES[dtype])
        vision = opened.config.vision_config
        self._image_tokens = (vision.image_size // vision.patch_size) ** 2 + 1

    def decode_size(self, width: int, height: int) -> tuple[int, int]:
        """The width and height that a decoder which can scale must leave of an image, lying or upright."""
        return self._image.decode_size(width, height)

    def prepare(self, part: Part, role: Role) -> PreparedPart:
        """Resize an image or tokenise a text; both roles are prepared alike.

        Raises:
            InvalidInput: an empty text, one that is not Unicode, or not an RGB image.
        """
        if isinstance(part, np.ndarray):
            return PreparedPart("image", self._image.apply(part), size=self._image_tokens)
        if not part.strip():
            raise InvalidInput(f"the text of the {role} is empty; leave it out")
        text = self._text.prepare(part)
        return PreparedPart("text", text, text.truncated, len(text.ids))

    def score(self, query: PreparedPart, candidates: Sequence[PreparedPart]) -> np.ndarray:
        """The probability that the text is true of the image, for each candidate.

        Raises:
            InvalidInput: a pair of two texts or of two images.
            NonFinite: NaN or infinity, with the indices.
        """
        for candidate in candidates:
            check_pair(self.takes, query.modality, candidate.modality)
        if not candidates:
            return np.empty(0, np.float32)
        values = [candidate.value for candidate in candidates]
        if query.modality == "text":
            odds = self.log_odds([query.value] * len(values), self.see(values))
        else:
            odds = self.log_odds(values, self.see([query.value]).expand(len(values), -1, -1))
        return (1 / (1 + np.exp(-odds.astype(np.float64)))).astype(np.float32)

    def see(self, pixels: Sequence[np.ndarray]) -> torch.Tensor:
        """Image tokens (n, length, width) of prepared images, for `log_odds`: one forward of the vision tower."""
        with torch.inference_mode():
            tokens: torch.Tensor = self._network.vision_model(**self._pixels(pixels)).last_hidden_state
        return tokens

    def log_odds(self, texts: Sequence[PreparedText], images: torch.Tensor) -> np.ndarray:
        """The natural-log odds, float32 (n,), that each prepared text is true of the image in the same place.

        Args:
            texts: what `prepare` put in `value`.
            images: rows of what `see` returned.

        Raises:
            NonFinite: NaN or infinity, with the indices.
        """
        with torch.inference_mode():
            batch = {name: value.to(self._target) for name, value in self._text.batch(texts).items()}
            # All image tokens are seen, so they need no mask.
            hidden = self._network.text_encoder(**batch, encoder_hidden_states=images).last_hidden_state
            logits = self._network.itm_head(hidden[:, 0]).float()
            odds: np.ndarray = (logits[:, 1] - logits[:, 0]).cpu().numpy()
        bad = np.flatnonzero(~np.isfinite(odds))
        if len(bad):
            raise NonFinite(bad.tolist(), "scores", self.identity.dtype)
        return odds


def load_matcher(
    model: str = "bundled", revision: str | None = None, device: str = "auto", dtype: str | None = None
) -> BlipMatcher:
    """Load a matcher of BLIP format, and match one pair to see that it works.

    Args:
        model: a hub id ("Salesforce/blip-itm-base-coco"), a folder, or "bundled".
        revision: branch, tag or commit of a hub repository.
        device: "auto", "cpu", "cuda" or "cuda:1".
        dtype: "float32", "bfloat16" or "float16"; None is float32 on a CPU and bfloat16 on a GPU.

    Raises:
        ModelError: one of the tree in `models.errors`, with what to do about it.
    """
    target = pick_device(device)
    number_format = pick_dtype(dtype, target)
    opened = open_blip(model, revision)
    tower = opened.config.text_config
    rules = TextRules(
        padding="masked",
        context_length=opened.context_length,
        vocabulary=tower.vocab_size,
        pooling="first position",
        pad_id=tower.pad_token_id,
    )
    text = load_text(opened.checkpoint, rules)
    network = opened.load("BlipForImageTextRetrieval", _PARTS, target, DTYPES[number_format])
    matcher = BlipMatcher(opened, network, text, number_format, target)
    black = matcher.prepare(np.zeros((64, 64, 3), np.uint8), "candidate")
    matcher.score(matcher.prepare("a photo", "query"), [black])
    return matcher
