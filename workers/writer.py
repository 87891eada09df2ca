"""Persists the outcome of one message in one transaction, guarded by the fences of its chunks."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psycopg
import structlog
from psycopg.types.json import Jsonb

from workers import metrics
from workers.columns import Column
from workers.database import Connection, Pool
from workers.errors import ItemError
from workers.ledger import MAX_ATTEMPTS, ClaimedChunk, Ledger
from workers.outage import is_outage
from workers.queries import query
from workers.vector import Vector

log = structlog.get_logger(__name__)

FLUSH_TRIES = 6
"""How often a flush is tried when others get in its way; the pauses add up to about 6 s."""
OUTAGE_SECONDS = 120.0
"""How long a flush waits for a database that is away. What was encoded is kept: the sweeper waits too, so the chunks
stay this worker's."""
LONGEST_PAUSE = 2.0
"""Seconds between two tries."""
_PASSING = (
    psycopg.errors.SerializationFailure,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.ForeignKeyViolation,
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg.errors.IdleInTransactionSessionTimeout,
)
TOLD_ERRORS = 20
"""Of a message, in the log; `failed_items` has them all."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one item.

    Args:
        generation: of the item when it was loaded.
        digest: sha256 of the content that was encoded; None if it was not read.
        vector: the vector to store; None with no error means that the stored one is right already.
        error: why there is no vector.
        learnt: the digest is news: the item's row has none or another.
        ranking: columns of a row of `ranking`, all but its keys and generation.
        captions: rows for `sightline.write_captions`, all but their generation.
    """

    item_id: int
    generation: int
    modality: str
    external_id: str
    digest: bytes | None = None
    vector: Vector | None = None
    error: ItemError | None = None
    learnt: bool = False
    ranking: dict[str, Any] | None = None
    captions: tuple[dict[str, Any], ...] = ()


@dataclass(slots=True)
class _Flush:
    """What one transaction writes beside the vectors."""

    counts: dict[int, Counter[str]] = field(default_factory=dict)
    failures: list[tuple[ClaimedChunk, Outcome]] = field(default_factory=list)
    moved: dict[int, list[int]] = field(default_factory=dict)


class Writer:
    """Writes outcomes in order of the key, the vectors of a message in one statement. Safe in threads.

    Once `give_up` is set, what fails is not tried again.
    """

    def __init__(self, pool: Pool, ledger: Ledger, give_up: threading.Event | None = None) -> None:
        self._pool = pool
        self._ledger = ledger
        self._give_up = give_up or threading.Event()

    def flush(
        self, space_id: int, chunks: Sequence[ClaimedChunk], outcomes: Mapping[int, Outcome],
        cancelled: Collection[int] = (),
    ) -> Counter[str]:  # fmt: skip
        """Store the outcomes of chunks of one space and close the chunks; then close jobs that this ended.

        Args:
            outcomes: by item id. An item without one is counted as skipped: it was deleted.
            cancelled: ids of chunks whose unfinished items are not tried again.

        Returns:
            How many items are done, failed, skipped, moved, cancelled; and `lost`, of chunks that another worker holds
            by now.

        Raises:
            psycopg.Error: the database did not take it after `FLUSH_TRIES` tries, or was away for `OUTAGE_SECONDS`.
        """
        began = time.monotonic()
        end = began + OUTAGE_SECONDS
        tries = 0
        while True:
            try:
                with self._pool.connection() as connection, connection.transaction():
                    connection.execute(query("limit_waiting"))
                    total = self._write(connection, space_id, chunks, outcomes, cancelled)
                break
            except _PASSING as error:
                # A commit whose answer was lost shows itself on the next try: its chunks are done.
                tries += 1
                if self._give_up.is_set() or (time.monotonic() > end if is_outage(error) else tries >= FLUSH_TRIES):
                    raise
                log.warning("flush_again", tries=tries, error=f"{type(error).__name__}: {error}".strip())
                self._give_up.wait(min(LONGEST_PAUSE, 0.1 * 2**tries) * random.uniform(0.5, 1.5))  # noqa: S311
        metrics.PERSIST.observe(time.monotonic() - began)
        metrics.PERSISTED.inc(sum(outcome.vector is not None for outcome in outcomes.values()))
        for what, items in total.items():
            metrics.ITEMS.labels(what).inc(items)
        _tell_errors(chunks, outcomes)
        try:
            self._ledger.close_jobs(chunks)
        except psycopg.Error as error:
            log.warning("jobs_not_closed", error=str(error).strip(), then="the sweeper closes them")
        return total

    def _write(
        self, connection: Connection, space_id: int, chunks: Sequence[ClaimedChunk], outcomes: Mapping[int, Outcome],
        cancelled: Collection[int],
    ) -> Counter[str]:  # fmt: skip
        mine = self._still_mine(connection, chunks)
        total = Counter(lost=sum(len(chunk.item_ids) for chunk in chunks if chunk not in mine))
        if not mine:
            return total
        wanted = sorted({item_id for chunk in mine for item_id in chunk.item_ids})
        known = [outcomes[item_id] for item_id in wanted if item_id in outcomes]
        _write_digests(connection, [outcome for outcome in known if outcome.learnt])
        rows = connection.execute(query("lock_items"), {"item_ids": Column(np.array(wanted))}).fetchall()
        present = {row["item_id"]: (row["generation"], row["digest"]) for row in rows}
        _write_vectors(connection, space_id, [outcome for outcome in known if outcome.item_id in present], present)
        for chunk in mine:
            _write_rankings(
                connection, chunk, [outcomes[id_] for id_ in chunk.item_ids if id_ in present and id_ in outcomes]
            )
            _write_captions(connection, chunk, outcomes, present)
        flush = _sort_out(mine, {o.item_id: o for o in known if o.item_id in present}, cancelled)
        _write_failures(connection, flush.failures)
        for chunk_id, item_ids in flush.moved.items():
            connection.execute(query("move_items"), {"chunk_id": chunk_id, "item_ids": item_ids})
        counts = {
            what: [flush.counts[chunk.chunk_id][what] for chunk in mine]
            for what in ("done", "failed", "skipped", "moved")
        }
        connection.execute(query("finish_chunks"), self._claims(mine) | counts)
        return sum(flush.counts.values(), total)

    def _still_mine(self, connection: Connection, chunks: Sequence[ClaimedChunk]) -> list[ClaimedChunk]:
        """The chunks whose claim still holds; their rows stay locked until the end of the transaction."""
        rows = connection.execute(query("hold_claims"), self._claims(chunks)).fetchall()
        held = {row["chunk_id"] for row in rows}
        for chunk in chunks:
            if chunk.chunk_id not in held:
                log.warning("chunk_lost", chunk_id=chunk.chunk_id, fence=chunk.fence, items=len(chunk.item_ids))
        return [chunk for chunk in chunks if chunk.chunk_id in held]

    def _claims(self, chunks: Sequence[ClaimedChunk]) -> dict[str, Any]:
        return {
            "worker_id": self._ledger.worker_id,
            "chunk_ids": [chunk.chunk_id for chunk in chunks],
            "fences": [chunk.fence for chunk in chunks],
        }


def _tell_errors(chunks: Sequence[ClaimedChunk], outcomes: Mapping[int, Outcome]) -> None:
    """Count items that have an error, and log the first of them with all their ids."""
    told = []
    for chunk in chunks:
        for item_id in chunk.item_ids:
            outcome = outcomes.get(item_id)
            if outcome is not None and outcome.error is not None:
                metrics.FAILURES.labels(outcome.error.error_class).inc()
                told.append({"job_id": chunk.job_id, "chunk_id": chunk.chunk_id, "item_id": item_id,
                             "error_class": outcome.error.error_class, "attempt": chunk.attempt + 1})  # fmt: skip
    if told:
        log.warning("items_with_errors", items=told[:TOLD_ERRORS], more=max(0, len(told) - TOLD_ERRORS))


def _sort_out(chunks: Sequence[ClaimedChunk], outcomes: Mapping[int, Outcome], cancelled: Collection[int]) -> _Flush:
    """Count each chunk's items, and say which fail and which are tried again."""
    flush = _Flush()
    for chunk in chunks:
        counts = flush.counts[chunk.chunk_id] = Counter()
        for item_id in chunk.item_ids:
            outcome = outcomes.get(item_id)
            if outcome is None:
                counts["skipped"] += 1
            elif outcome.error is None:
                counts["done"] += 1
            elif outcome.error.retryable and chunk.chunk_id in cancelled:
                counts["cancelled"] += 1
            elif outcome.error.retryable and chunk.attempt + 1 < MAX_ATTEMPTS:
                counts["moved"] += 1
                flush.moved.setdefault(chunk.chunk_id, []).append(item_id)
            else:
                counts["failed"] += 1
                flush.failures.append((chunk, outcome))
    return flush


def _write_digests(connection: Connection, outcomes: Sequence[Outcome]) -> None:
    if outcomes:
        columns: dict[str, list[Any]] = {
            "item_ids": [o.item_id for o in outcomes],
            "generations": [o.generation for o in outcomes],
            "digests": [o.digest for o in outcomes],
        }
        connection.execute(query("write_digests"), columns)


def _write_vectors(
    connection: Connection, space_id: int, outcomes: Sequence[Outcome], present: Mapping[int, tuple[int, bytes | None]]
) -> None:
    stored = [(outcome, outcome.vector) for outcome in outcomes if outcome.vector is not None]
    if stored:
        notes = [vector.note for _, vector in stored]
        columns = {
            "item_ids": Column(np.array([outcome.item_id for outcome, _ in stored])),
            "generations": Column(
                np.array([_generation(outcome, *present[outcome.item_id]) for outcome, _ in stored], np.int32)
            ),
            "norms": Column(np.array([vector.norm for _, vector in stored], np.float32)),
            "modalities": f"{{{','.join(outcome.modality for outcome, _ in stored)}}}",
            "notes": notes if any(notes) else None,
            "vectors": Column(np.stack([vector.values for _, vector in stored])),
        }
        connection.execute(query("upsert_vectors"), {"space_id": space_id} | columns)


def _write_rankings(connection: Connection, chunk: ClaimedChunk, outcomes: Sequence[Outcome]) -> None:
    rows = [
        outcome.ranking | {"item_id": outcome.item_id, "generation": outcome.generation}
        for outcome in outcomes
        if outcome.ranking is not None
    ]
    if rows:
        connection.execute(query("write_rankings"), {"job_id": chunk.job_id, "rows": Jsonb(rows)})


def _write_captions(
    connection: Connection, chunk: ClaimedChunk, outcomes: Mapping[int, Outcome],
    present: Mapping[int, tuple[int, bytes | None]],
) -> None:  # fmt: skip
    found = [outcomes[item_id] for item_id in chunk.item_ids if item_id in outcomes and item_id in present]
    rows = [
        row | {"generation": _generation(outcome, *present[outcome.item_id])}
        for outcome in found
        for row in outcome.captions
    ]
    if rows:
        connection.execute(query("write_captions"), {"job_id": chunk.job_id, "captions": Jsonb(rows)})


def _generation(outcome: Outcome, present: int, digest: bytes | None) -> int:
    """That of the item now, unless the vector is of older content: it must not pass for the present one."""
    return present if digest is not None and digest == outcome.digest else outcome.generation


def _write_failures(connection: Connection, failures: Sequence[tuple[ClaimedChunk, Outcome]]) -> None:
    if failures:
        columns: dict[str, list[Any]] = {
            "job_ids": [chunk.job_id for chunk, _ in failures],
            "chunk_ids": [chunk.chunk_id for chunk, _ in failures],
            "item_ids": [outcome.item_id for _, outcome in failures],
            "generations": [outcome.generation for _, outcome in failures],
            "external_ids": [outcome.external_id for _, outcome in failures],
            "error_classes": [outcome.error.error_class for _, outcome in failures if outcome.error],
            "messages": [str(outcome.error).replace("\0", "") for _, outcome in failures],
            "attempts": [chunk.attempt + 1 for chunk, _ in failures],
        }
        connection.execute(query("insert_failures"), columns)
