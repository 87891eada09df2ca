"""The ledger as a worker sees it: claim chunks, give them back, give them up."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sightline.contracts.check import check_payload_text
from sightline.contracts.fields import Contract
from sightline.errors import ContractViolated
from workers.database import Pool
from workers.engine import Lane
from workers.queries import query

MAX_ATTEMPTS = 3
"""How often a chunk is begun, not counting what restarts and hand-backs cost."""


@dataclass(frozen=True, slots=True)
class ClaimedChunk:
    """A chunk under this worker's lease, as of its claim. `fence` guards the writes."""

    chunk_id: int
    job_id: int
    item_ids: list[int]
    space_id: int
    lane: Lane  # the messages of one lane travel together
    attempt: int
    fence: int


@dataclass(frozen=True, slots=True)
class WaitingChunks:
    """Unclaimed chunks of one space, kind and payload, which is JSON."""

    space_id: int | None
    kind: str
    payload: str
    chunk_ids: list[int]

    def checked(self) -> Contract:
        """The payload. Raises ContractViolated for rows written around `submit`, or by a newer version."""
        payload = check_payload_text(self.kind, self.payload)
        if self.space_id is None:
            raise ContractViolated(f"the chunk of a job of kind {self.kind} needs a space")
        return payload


class Ledger:
    """Moves of the ledger, each one short transaction. Safe in threads; raises psycopg.Error."""

    def __init__(self, pool: Pool, worker_id: uuid.UUID) -> None:
        self._pool = pool
        self.worker_id = worker_id

    def waiting(self, chunk_ids: Sequence[int]) -> list[WaitingChunks]:
        """Those of these chunks that nobody has claimed."""
        with self._pool.connection() as connection:
            rows = connection.execute(query("waiting_chunks"), {"chunk_ids": list(chunk_ids)}).fetchall()
        return [WaitingChunks(**row) for row in rows]

    def claim(self, chunk_ids: Sequence[int]) -> list[ClaimedChunk]:
        """Take what is queued and due of these chunks; a duplicate message finds nothing."""
        with self._pool.connection() as connection:
            rows = connection.execute(
                query("claim"), {"chunk_ids": list(chunk_ids), "worker_id": self.worker_id}
            ).fetchall()
        return [ClaimedChunk(**row) for row in rows]

    def release(self, chunk_ids: Sequence[int]) -> None:
        """Hand chunks back without spending an attempt."""
        if chunk_ids:
            with self._pool.connection(timeout=3.0) as connection:
                connection.execute(query("release"), {"chunk_ids": list(chunk_ids), "worker_id": self.worker_id})

    def postpone(self, chunk_ids: Sequence[int], seconds: float) -> None:
        """Have unclaimed chunks published again, not before `seconds` from now."""
        with self._pool.connection() as connection:
            connection.execute(query("postpone"), {"chunk_ids": list(chunk_ids), "seconds": seconds})

    def fail(self, chunk: ClaimedChunk, error_class: str, message: str) -> str:
        """After an error of a chunk as a whole: "retried", "failed" (its attempts are spent) or "lost"."""
        arguments = {"chunk_id": chunk.chunk_id, "fence": chunk.fence, "error_class": error_class, "message": message,
                     "max_attempts": MAX_ATTEMPTS}  # fmt: skip
        with self._pool.connection() as connection:
            row = connection.execute(query("fail_chunk"), arguments).fetchone()
        return str(row["fail_chunk"]) if row else "lost"

    def refuse(self, chunk_ids: Sequence[int], error_class: str, message: str) -> None:
        """Claim chunks and fail all their items for good: no worker can do them."""
        with self._pool.connection() as connection, connection.transaction():
            arguments = {"chunk_ids": list(chunk_ids), "worker_id": self.worker_id}
            chunks = [ClaimedChunk(**row) for row in connection.execute(query("claim"), arguments).fetchall()]
            for chunk in chunks:
                failed = {"chunk_id": chunk.chunk_id, "fence": chunk.fence, "error_class": error_class,
                          "message": message, "max_attempts": 0}  # fmt: skip
                connection.execute(query("fail_chunk"), failed)
        self.close_jobs(chunks)

    def close_jobs(self, chunks: Sequence[ClaimedChunk]) -> None:
        """Close the jobs of chunks that have just ended, where these were the last. The sweeper does so too, later."""
        with self._pool.connection() as connection:
            connection.execute(query("close_jobs"), {"job_ids": sorted({chunk.job_id for chunk in chunks})})

    def running(self) -> set[int]:
        """Ids of the chunks that the database thinks this worker is working on."""
        with self._pool.connection() as connection:
            row = connection.execute(query("running_of_worker"), {"worker_id": self.worker_id}).fetchone()
        return set(row["coalesce"]) if row else set()
