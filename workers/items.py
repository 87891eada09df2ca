"""Items on their way through a message: loaded, cut into parts, and at the end either a vector or an error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from models.errors import InvalidInput as ModelInvalidInput
from models.errors import NonFiniteVectors
from models.protocols import Prepared
from sightline.sources import OBJECTS, WEB, scheme_of
from workers.database import Pool
from workers.encoding import Kind
from workers.errors import (
    BadVector,
    EncodeFailed,
    EngineUnavailable,
    InvalidInput,
    ItemError,
    OutOfMemory,
    UnsupportedModality,
)
from workers.queries import query
from workers.spaces import Served
from workers.vector import Vector
from workers.writer import Outcome

PART_ITEMS = 64
"""Items that are fetched and decoded together."""
PART_BYTES = 64 * 2**20
"""Encoded bytes that one message holds at a time; a single item may be larger."""
FORWARD_SECONDS = 600.0
"""How long a message waits for its next vector before the rest counts as lost."""


@dataclass(slots=True)
class Item:
    """One item on its way. `data` is dropped as soon as it is decoded."""

    item_id: int
    generation: int
    modality: Kind
    external_id: str
    uri: str | None
    text: str | None
    digest: bytes | None
    blob_digest: bytes | None
    blob_bytes: int | None
    encoded: bool
    data: bytes | None = None
    actual: bytes | None = None  # digest of the content as read
    error: ItemError | None = None
    vector: Future[Vector] | None = None
    truncated: bool = False
    note: str | None = None

    @property
    def is_remote(self) -> bool:
        """Whether it lies on another machine: a link, or an object of a store."""
        return scheme_of(self.uri) in (*WEB, *OBJECTS)


def load_items(pool: Pool, served: Served, item_ids: Sequence[int]) -> list[Item]:
    """The items that are still there, with what is known of their content. Raises psycopg.Error."""
    with pool.connection() as connection:
        arguments = {"space_id": served.space_id, "item_ids": sorted(set(item_ids))}
        items = [Item(**row) for row in connection.execute(query("load_items"), arguments).fetchall()]
    for item in items:
        if item.modality not in served.modalities:
            item.error = UnsupportedModality(f"{item.external_id}: space {served.name} takes no {item.modality} items")
    return items


def parts(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Cut items so that a part's uploads stay within `PART_BYTES`."""
    part: list[Item] = []
    total = 0
    for item in items:
        size = item.blob_bytes or 0
        if part and (len(part) == PART_ITEMS or total + size > PART_BYTES):
            yield part
            part, total = [], 0
        part.append(item)
        total += size
    if part:
        yield part


def outcomes(items: Sequence[Item]) -> dict[int, Outcome]:
    """Wait for the vectors; once one was waited for in vain, the others are not."""
    outcomes = {}
    seconds = FORWARD_SECONDS
    for item in items:
        vector, error = None, item.error
        if error is None and item.vector is not None:
            try:
                vector = item.vector.result(seconds)
            except BaseException as failure:  # noqa: BLE001 - each item has its own fate
                error = as_item_error(failure, item.external_id)
                seconds = 0.0 if isinstance(failure, TimeoutError) else seconds
        outcomes[item.item_id] = _outcome(item, vector, error)
    return outcomes


def _outcome(item: Item, vector: Vector | None, error: ItemError | None) -> Outcome:
    return Outcome(
        item_id=item.item_id, generation=item.generation, modality=item.modality, external_id=item.external_id,
        digest=item.actual, vector=vector, error=error, learnt=item.actual is not None and item.actual != item.digest,
    )  # fmt: skip


def cut_note(text: Prepared, context_length: int | None) -> tuple[str, ...]:
    """What is said of a text that is longer than the model reads; nothing of others."""
    return (f"only the first {context_length} tokens of the text were read",) if text.truncated else ()


def as_item_error(error: BaseException, name: str) -> ItemError:
    """The failure of one item, whatever was raised; the message names the item."""
    if isinstance(error, ItemError):
        # Of a neighbour with the same content, or of the engine, which knows no names.
        return error if str(error).startswith(name) else type(error)(f"{name}: {error}")
    if isinstance(error, NonFiniteVectors):
        return BadVector(f"{name}: {error}")
    if isinstance(error, ModelInvalidInput):
        return InvalidInput(f"{name}: {error}")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return OutOfMemory(f"{name}: {error or 'not enough memory'}")
    if isinstance(error, TimeoutError):
        return EngineUnavailable(f"{name}: no vector came within {FORWARD_SECONDS:g} s")
    return EncodeFailed(f"{name}: {type(error).__name__}: {error}")
