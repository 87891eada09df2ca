"""Captioners of any kind, asked for each image apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.errors import ModelError, NonFinite
from models.protocols import GREEDY, Caption, Captioner, Decoding

__all__ = ["caption_each"]


def caption_each(
    captioner: Captioner, pixels: Sequence[np.ndarray], prompt: str | None = None, decoding: Decoding = GREEDY
) -> list[Caption | ModelError]:
    """Caption prepared images; one that cannot be captioned gets its error, the others the captions they have without.

    Raises:
        InvalidInput: the prompt or the decoding cannot be used, for any image.
    """
    own = getattr(captioner, "caption_each", None)
    if own is not None:
        found: list[Caption | ModelError] = own(pixels, prompt, decoding)
        return found
    results: list[Caption | ModelError] = [ModelError("not captioned")] * len(pixels)
    left = list(range(len(pixels)))
    while left:
        try:
            captions = captioner.caption([pixels[position] for position in left], prompt, decoding)
        except NonFinite as error:
            bad = {left[index] for index in error.indices} or set(left)
            for position in bad:
                results[position] = error
            left = [position for position in left if position not in bad]
            continue
        for position, caption in zip(left, captions, strict=True):
            results[position] = caption
        break
    return results
