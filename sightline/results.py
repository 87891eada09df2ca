"""What the client answers with: hits and spaces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from sightline.rerank import Ranking

Modality = Literal["image", "text"]
Status = Literal["complete", "fewer_exist", "scan_limit"]


@dataclass(frozen=True)
class Hit:
    """One found item. `score` is the cosine similarity, `distance` is 1 - score; `relevance` is a scorer's, if asked.

    Of a hybrid search `score` is the fused one, `distance` that of the item's own vector (None where it has none), and
    `caption` the text that brought the item up, if one did; `recipe` says who wrote it, if its words did (`own`: the
    item's owner).
    """

    item_id: int
    external_id: str
    score: float
    distance: float | None
    collection: str
    modality: str
    metadata: dict[str, Any]
    text: str | None
    uri: str | None
    group_key: str | None
    caption: str | None = None
    recipe: str | None = None
    relevance: float | None = None


class Hits(list[Hit]):
    """Hits, nearest first, or as a scorer put them. `status` says whether the answer is whole; `notes` what of the
    query was not read, and which hits could not be scored; `ranking` who scored them and how long it took."""

    def __init__(self, hits: Iterable[Hit], status: Status, notes: Iterable[str] = ()) -> None:
        super().__init__(hits)
        self.status: Status = status
        self.notes = list(notes)
        self.ranking: Ranking | None = None


def hits_of(rows: Sequence[Sequence[Any]], notes: Iterable[str] = ()) -> Hits:
    """Hits of rows that have the fields of a `Hit` in their order, and the status last."""
    status: Status = rows[0][-1] if rows else "fewer_exist"
    return Hits((Hit(*row[:-1]) for row in rows), status, notes)


@dataclass(frozen=True)
class Space:
    """One embedding space: vectors of two spaces are never compared."""

    name: str
    model: str
    revision: str | None
    dim: int
    modalities: list[str]
    pool: str | None
    aliases: list[str]
    passport: dict[str, Any]

    @property
    def queue(self) -> str:
        """The queue of the workers that hold the model."""
        return f"encode.{self.pool}" if self.pool else "encode"
