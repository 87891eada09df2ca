"""An encoder as the engine's work: one kind for images, one for texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from models.batch import Batch
from models.encoder import Encoder
from models.protocols import Prepared
from workers.engine import Work

Kind = Literal["image", "text"]


class ImageWork:
    """Prepared images to float32 (dim,), not normalised; they cost by their pixels."""

    kind: str = "image"

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def size(self, prepared: np.ndarray) -> int:
        """Pixels."""
        return int(prepared.shape[0] * prepared.shape[1])

    def samples(self) -> list[np.ndarray]:
        """The largest that the model takes, and a small one where it keeps their aspect."""
        shapes = [(64, 64), (2048, 2048)] if self._encoder.image_size is None else [(64, 64)]
        return [self._encoder.prepare_image(np.zeros((*shape, 3), np.uint8)) for shape in shapes]

    def collate(self, prepared: Sequence[np.ndarray]) -> Batch:
        """See `Encoder.collate_images`."""
        return self._encoder.collate_images(prepared)

    def forward(self, batch: Batch) -> np.ndarray:
        """See `Encoder.forward`."""
        return self._encoder.forward(batch)


class TextWork:
    """Prepared texts to float32 (dim,), not normalised; they cost by their tokens."""

    kind: str = "text"

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def size(self, prepared: Any) -> int:
        """Tokens that the model reads, special tokens included."""
        return min(prepared.tokens, self._encoder.context_length)

    def samples(self) -> list[Prepared]:
        """A word, and a text as long as the context."""
        return [self._encoder.prepare_text(text) for text in ("a", "red cube " * self._encoder.context_length)]

    def collate(self, prepared: Sequence[Any]) -> Batch:
        """See `Encoder.collate_texts`."""
        return self._encoder.collate_texts(prepared)

    def forward(self, batch: Batch) -> np.ndarray:
        """See `Encoder.forward`."""
        return self._encoder.forward(batch)


def works_of(encoder: Encoder) -> list[Work]:
    """What an encoder does."""
    works: list[Work] = [ImageWork(encoder)]
    return [*works, TextWork(encoder)] if "text" in encoder.modalities else works
