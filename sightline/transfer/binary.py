"""Vectors as the database stores them, and rows in the format of binary COPY."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np
import psycopg

from sightline.transfer.rows import Target, plain_json

UNIT_TOLERANCE = 2e-3
"""A vector of length 1 has, once it is rounded to float16, a length within this of 1."""
_COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
_NULL = struct.pack(">i", -1)
_FIELDS = 13


def normalise(vectors: np.ndarray, given: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Vectors of length 1 as Postgres takes them, their norms, and what is wrong with some of them.

    Those that are of length 1 already, but for their rounding to float16, keep their bits.

    Args:
        vectors: float16 or float32 (n, dim).
        given: float64 (n,), the norms that the vectors had before; NaN where nobody says.

    Returns:
        big-endian float16 (n, dim), float64 (n,), and problems by row.
    """
    wide = vectors.astype(np.float32)
    finite = np.asarray(np.isfinite(wide).all(axis=1))
    lengths = np.sqrt(np.square(np.where(finite[:, None], wide, 0), dtype=np.float64).sum(axis=1))
    problems = {int(n): "its vector holds NaN or an infinity" for n in np.flatnonzero(~finite)}
    zero = finite & (lengths < np.finfo(np.float32).tiny)
    problems |= {int(n): "its vector is zero" for n in np.flatnonzero(zero)}
    rounded = (np.abs(lengths - 1) <= UNIT_TOLERANCE) & (~np.isnan(given) | (vectors.dtype == np.float16))
    norms = np.where(np.isnan(given), lengths, given)
    long = finite & ~zero & (norms > np.finfo(np.float32).max)  # the column takes no larger one
    problems |= {int(n): "its vector is longer than a float32 can say" for n in np.flatnonzero(long)}
    divisors = np.where(rounded | zero | ~finite, 1, lengths)
    with np.errstate(over="ignore", invalid="ignore"):  # of the bad ones
        units = (wide / divisors[:, None]).astype(">f2")
    return units, norms, problems


def copy_rows(
    connection: psycopg.Connection, targets: Mapping[int, Target], units: np.ndarray, norms: np.ndarray
) -> None:
    """Fill pg_temp.sightline_import with rows in the format of binary COPY."""
    connection.execute(
        "create temp table if not exists sightline_import on commit delete rows as "
        "select 0 as n, c.name as collection, i.external_id, i.modality, i.uri, i.text, i.source_tag, i.digest, "
        "i.root, i.group_key, i.metadata, e.norm, e.vec "
        "from sightline.collection c, sightline.item i, sightline.embedding e with no data"
    )
    head = struct.pack(">hh", units.shape[1], 0)
    with connection.cursor().copy("copy pg_temp.sightline_import from stdin (format binary)") as copy:
        copy.write(_COPY_HEADER)
        for n, t in targets.items():
            strings = (t.collection, t.external_id, t.modality, t.uri, t.text, t.source_tag)
            copy.write(
                struct.pack(">hii", _FIELDS, 4, n)
                + b"".join(_field(None if value is None else value.encode()) for value in strings)
                + _field(t.digest)
                + _field(None if t.root is None else t.root.encode())
                + _field(None if t.group_key is None else t.group_key.encode())
                + _field(b"\1" + plain_json(t.metadata).encode())
                + struct.pack(">if", 4, norms[n])
                + _field(head + units[n].tobytes())
            )
        copy.write(struct.pack(">h", -1))


def _field(value: bytes | None) -> bytes:
    return _NULL if value is None else struct.pack(">i", len(value)) + value
