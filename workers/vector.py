"""A vector as it is stored: of length 1, with the norm that it had."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workers.errors import BadVector


@dataclass(frozen=True, slots=True)
class Vector:
    """A vector as it is stored.

    Args:
        values: float16 or float32 (dim,), of length 1.
        norm: L2 norm before normalisation.
        note: what of the content it does not show, in words for the user.
    """

    values: np.ndarray
    norm: float
    note: str | None = None


def normalise(vector: np.ndarray) -> Vector:
    """Divide by the L2 norm, in float32.

    Args:
        vector: float32 (dim,).

    Raises:
        BadVector: zero or not finite.
    """
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if not np.isfinite(norm) or norm < np.finfo(np.float32).tiny:
        raise BadVector(f"the model gave a vector of length {norm:g}")
    return Vector((vector / np.float32(norm)).astype(np.float32), norm)
