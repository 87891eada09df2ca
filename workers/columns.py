"""Whole columns as parameters: numpy arrays to arrays of Postgres in binary format, without a loop over rows."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
from pgvector.psycopg import register_vector
from psycopg.adapt import Dumper
from psycopg.pq import Format

_DIMENSIONS, _NO_NULLS, _LOWER_BOUND = 1, 0, 1
_SCALARS = {"int64": ("int8", ">i8"), "int32": ("int4", ">i4"), "float32": ("float4", ">f4")}


@dataclass(frozen=True, slots=True)
class Column:
    """One value for each row; the statement casts the parameter: `%(ids)b::bigint[]`.

    Args:
        values: int64 (n,) for bigint[], int32 (n,) for int[], float32 (n,) for real[], or float16 or float32 (n, dim)
            for halfvec[].
    """

    values: np.ndarray


def register(connection: psycopg.Connection[Any]) -> None:
    """Let a connection know pgvector's types, and take `Column`."""
    register_vector(connection)
    types = connection.adapters.types

    class ColumnDumper(Dumper):
        """An array of Postgres is a head, and for each element its length in bytes and itself."""

        format = Format.BINARY

        def dump(self, given: Column) -> bytes:
            values = given.values
            name, number = ("halfvec", ">f2") if values.ndim == 2 else _SCALARS[values.dtype.name]
            # A halfvec is its dimension, two bytes of nothing, and its numbers.
            head = [("dim", ">i2"), ("unused", ">i2")] if values.ndim == 2 else []
            rows = np.zeros(len(values), [("size", ">i4"), *head, ("value", number, values.shape[1:])])
            rows["size"] = rows.dtype.itemsize - 4
            if head:
                rows["dim"] = values.shape[1]
            rows["value"] = values
            return (
                struct.pack(">iiIii", _DIMENSIONS, _NO_NULLS, types[name].oid, len(values), _LOWER_BOUND)
                + rows.tobytes()
            )

    connection.adapters.register_dumper(Column, ColumnDumper)
