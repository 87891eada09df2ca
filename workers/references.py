"""The golden vectors that a space keeps: what every worker that serves it must agree with, whatever its machine."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import structlog
from psycopg.types.json import Jsonb

from models.encoder import Encoder
from workers.database import Connection
from workers.golden import TOLERANCE, Golden
from workers.queries import query

log = structlog.get_logger(__name__)


def disagreement(connection: Connection, space_id: int, encoder: Encoder, golden: Golden) -> str | None:
    """Why a model's vectors may not be stored beside those of a space, in words; None when they may.

    The first worker that serves a space stores its golden vectors; each later one is held against them. Two number
    formats may lie as far apart as the coarser of them allows.

    Args:
        connection: outside of any transaction, or in one of its own.
        golden: the model's, which are sound here.
    """
    dtype = encoder.passport.dtype
    maker = {"host": platform.node(), "device": encoder.device, "libraries": encoder.passport.libraries}
    for own in golden.references():
        given = {"space_id": space_id, "modality": own.kind, "inputs": own.inputs, "vectors": own.vectors.tolist(),
                 "dtype": dtype, "maker": Jsonb(maker)}  # fmt: skip
        kept = connection.execute(query("keep_golden"), given).fetchone()
        assert kept is not None
        distances = np.linalg.norm(np.array(kept["vectors"], np.float64) - own.vectors, axis=1)
        distance = float(np.nan_to_num(distances, nan=np.inf).max())
        tolerance = max(golden.tolerance, TOLERANCE.get(kept["dtype"], 0.0))
        log.info("golden_vectors_compared", space_id=space_id, kind=own.kind, distance=distance, tolerance=tolerance)
        if distance > tolerance:
            return (
                f"its golden vectors ({own.kind}s) lie {distance:.2g} from those that {_whose(kept)}, more than "
                f"{tolerance:g}, although the model is the same: what computes here ({_machine(dtype, maker)}) or "
                f"there is wrong. If it was there, have the owner `delete from sightline.golden where space_id = "
                f"{space_id}`, restart the workers, and encode anew what was stored since"
            )
    return None


def _whose(kept: dict[str, Any]) -> str:
    machine = _machine(kept["dtype"], kept["maker"])
    return f"{kept['maker'].get('host', 'a worker')} stored on {kept['stored_at']:%Y-%m-%d} ({machine})"


def _machine(dtype: str, maker: dict[str, Any]) -> str:
    return ", ".join([str(maker.get("device")), dtype, f"torch {maker.get('libraries', {}).get('torch')}"])
