"""A few vectors of an import, compared with what the space's model makes of the same content."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sightline.errors import CallFailed, PolicyRefused, ServiceMissing, UsageError
from sightline.query import image_bytes_of
from sightline.results import Space
from sightline.transfer.rows import BadRow, RowReader, Target
from sightline.transfer.shards import Shard

if TYPE_CHECKING:
    from sightline.searches import Searches

SAMPLE = 8
MIN_COSINE = 0.99
"""Below what rounding and another number format do, above what another image pipeline does."""


@dataclass(frozen=True)
class SampleCheck:
    """What the comparison found.

    Args:
        compared: how many vectors.
        lowest: the lowest cosine between a given vector and the model's; None where none was compared.
        problem: why not all of the sample were compared.
    """

    compared: int
    lowest: float | None = None
    problem: str | None = None


def check_sample(client: Searches, space: Space, shards: Sequence[Shard], reader: RowReader) -> SampleCheck:
    """Encode the content of a few rows, from as many shards as possible, and compare.

    Raises:
        PolicyRefused: a vector is not the model's.
    """
    lowest, compared, problem = None, 0, None
    for target, vector in _sample(shards, space.dim, reader):
        try:
            texts = [] if target.text is None else [target.text]
            images = [] if target.path is None or texts else [image_bytes_of(target.path, client.settings)]
            (encoded, *_), _ = client.encode(texts=texts, images=images, space=space.name)
        except (CallFailed, UsageError) as error:
            problem = f"{target.external_id}: {error}"
            continue
        except ServiceMissing as error:
            problem = str(error)
            break
        own = vector.astype(np.float64)
        cosine = float(own @ encoded / (np.linalg.norm(own) * np.linalg.norm(encoded)))
        compared += 1
        lowest = cosine if lowest is None else min(lowest, cosine)
        if cosine < MIN_COSINE:
            raise PolicyRefused(
                f"nothing was imported: the vector of {target.external_id} is not what {space.model} makes of it "
                f"(cosine {cosine:.3f}, at least {MIN_COSINE} is expected): another model, another preparation of "
                "images, or ids in another order"
            )
    if not compared and problem is None:
        problem = "none of the contents looked at can be read here"
    return SampleCheck(compared, lowest, problem)


def _sample(shards: Sequence[Shard], dim: int, reader: RowReader) -> Iterator[tuple[Target, np.ndarray]]:
    chosen = [shards[n] for n in sorted({int(n) for n in np.linspace(0, len(shards) - 1, SAMPLE)})] if shards else []
    for shard in chosen:
        vectors, problems, rows = next(shard.batches(dim), (np.zeros((0, dim)), {}, []))
        readable = []
        for n, row in enumerate(rows):
            try:
                target = reader.read(row)
            except BadRow:
                continue
            there = target.text is not None or (target.path is not None and target.path.is_file())
            if there and n not in problems and np.isfinite(vectors[n]).all() and vectors[n].any():
                readable.append((target, vectors[n]))
        share = -(-SAMPLE // len(chosen))
        yield from (readable[int(n)] for n in np.linspace(0, len(readable) - 1, min(share, len(readable))))
