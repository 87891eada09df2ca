"""What the engine needs of a kind of work, whatever it is: images and texts to vectors, captions, pairs to scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol


class Work(Protocol):
    """One kind of work of one model.

    Attributes:
        kind: its name, unique in the engine.
    """

    kind: str

    def size(self, prepared: Any) -> int:
        """Pixels, tokens or whatever an item costs by; a batch is padded to its largest."""

    def samples(self) -> Sequence[Any]:
        """Items of the least and of the largest size, for the warm-up; one where all are alike."""

    def collate(self, prepared: Sequence[Any]) -> Any:
        """Items to one batch on the device. Called by any thread, also while a forward runs."""

    def forward(self, batch: Any) -> Iterable[Any]:
        """One result for each item of a batch. One call at a time."""
