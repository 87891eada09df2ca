"""The vector of a composed query: its parts are encoded by a worker, and put together here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sightline.compose import COMPOSITIONS, compose_pdv, compose_sum
from sightline.errors import UsageError
from sightline.query import image_bytes_of, naming_the_query

if TYPE_CHECKING:
    from sightline.searches import Searches

FACTORS = ("alpha_image", "alpha_text", "beta")


def composed_query(
    client: Searches, compose: str, image: str | os.PathLike[str] | bytes | None, text: str | None, vector: object,
    reference: str | None, factors: Mapping[str, float] | None, space: str,
) -> tuple[Sequence[float], list[str]]:  # fmt: skip
    """The unit vector of an image and a text, and what of them was not read; arguments as of `Sightline.search`.

    Raises:
        UsageError: an argument that lacks, or one too many.
    """
    if compose not in COMPOSITIONS:
        raise UsageError(f"compose must be one of {', '.join(COMPOSITIONS)}, not {compose!r:.40}")
    if image is None or text is None or vector is not None:
        raise UsageError("a composed query takes an image and a text, and no vector")
    if compose == "sum" and (reference is not None or factors is not None):
        raise UsageError("the sum takes neither reference nor factors")
    if compose == "pdv" and not (isinstance(reference, str) and reference.strip()):
        raise UsageError("pdv needs reference, a text of the image, such as its caption")
    unknown = sorted(set(factors or {}) - set(FACTORS))
    if unknown:
        raise UsageError(f"unknown factor {unknown[0]}; factors: {', '.join(FACTORS)}")
    texts = [text] if reference is None else [text, reference]
    with naming_the_query(image):
        vectors, notes = client.encode(texts=texts, images=[image_bytes_of(image, client.settings)], space=space)
    told = [note for some in notes for note in some]
    if compose == "sum":
        return compose_sum(vectors[-1], vectors[0]), told
    return compose_pdv(vectors[-1], vectors[1], vectors[0], **(factors or {})), told
