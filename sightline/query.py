"""The arguments of a search, checked before anything is asked."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from sightline.content import prepare
from sightline.errors import CallFailed, ContractViolated, UsageError
from sightline.item import Found, Item, printable
from sightline.results import Space
from sightline.settings import Settings

MAX_K = 10_000


def image_bytes_of(image: str | os.PathLike[str] | bytes, settings: Settings) -> bytes:
    """The bytes of a query image, given as a path or as bytes.

    Raises:
        UsageError: it is no file, cannot be read, or is larger than `settings.max_bytes`.
    """
    if isinstance(image, (bytes, bytearray, memoryview)):
        item = Item(data=bytes(image), external_id="the query image")
    elif isinstance(image, (str, os.PathLike)):
        item = Item(path=image)
    else:
        raise UsageError(f"image must be a path or the bytes of an image file, not a {type(image).__name__}")
    # As in an ingest, but for the media roots: a query travels with its bytes.
    prepared = prepare(Found(item), settings.model_copy(update={"media_roots": []}))
    if prepared.blob is None:
        raise UsageError(prepared.spec["error"]["message"])
    return prepared.blob


@contextmanager
def naming_the_query(image: object) -> Iterator[None]:
    """A worker knows a query as `input 0`; whoever searches knows the file.

    Raises:
        UsageError: the worker refused the image.
        CallFailed: anything else that it answered.
    """
    try:
        yield
    except CallFailed as error:
        if image is None or "input 0" not in str(error):
            raise
        name = printable(Path(image)) if isinstance(image, (str, os.PathLike)) else "the query image"
        raise UsageError(str(error).replace("input 0", name, 1)) from error


def vector_literal(vector: Sequence[float]) -> str:
    """A vector as pgvector reads it."""
    return f"[{','.join(map(repr, vector))}]"


def check_search(text: object, vector: object, k: object, where: object) -> None:
    """Refuse arguments of the wrong type by name, before they turn into a puzzle of the driver's.

    Raises:
        UsageError: the first one that cannot be used.
    """
    if text is not None and (not isinstance(text, str) or not text.strip()):
        raise UsageError(f"text must be a string and not empty, not {text!r:.50}")
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MAX_K:
        raise UsageError(f"k must be a whole number from 1 to {MAX_K:,}, not {k!r}")
    if where is not None and not isinstance(where, Mapping):
        raise UsageError(f"where must be a mapping of fields to values, not a {type(where).__name__}")
    if where is not None:
        from sightline.contracts.problem import as_text  # here, for few searches need it

        try:
            as_text(dict(where), "where")
        except ContractViolated as error:
            raise UsageError(str(error)) from error
    if vector is not None:
        try:
            numbers = [float(x) for x in vector]  # type: ignore[attr-defined]
        except (TypeError, ValueError, OverflowError) as error:
            raise UsageError(f"vector must be a sequence of numbers: {error}") from error
        unfit = next((n for n, x in enumerate(numbers) if not math.isfinite(x)), None)
        if unfit is not None:
            raise UsageError(f"vector must hold finite numbers: number {unfit} is {numbers[unfit]}")


def check_modalities(space: Space, texts: Sequence[str], images: Sequence[bytes]) -> None:
    """Refuse what the model of the space has no tower for, before a worker is asked.

    Raises:
        UsageError: a text for a space of images only, or the other way round.
    """
    for modality, given, other in (("text", texts, "an image"), ("image", images, "a text")):
        if given and modality not in space.modalities:
            raise UsageError(
                f"space {space.name} takes no {modality}: its model {space.model} does not encode it; "
                f"search with {other}, or in another space (`sightline spaces` lists them)"
            )
