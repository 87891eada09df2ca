"""Rerank jobs: the items of claimed chunks get a score each, which becomes a row of `ranking`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import structlog

from models.errors import ModelError
from sightline.contracts.rerank import RerankPayload
from workers.cancellations import Cancellations, Cancelled
from workers.errors import ItemError, ScorerRefused
from workers.items import Item, as_item_error
from workers.ledger import ClaimedChunk
from workers.reranker import Reranker, Scored
from workers.scorers import Scorers
from workers.spaces import Served
from workers.writer import Outcome, Writer

log = structlog.get_logger(__name__)


class RerankWork:
    """Scores claimed chunks of one query. Safe in threads: each message runs in its caller's thread."""

    def __init__(self, reranker: Reranker, scorers: Scorers, writer: Writer, cancellations: Cancellations) -> None:
        self._reranker = reranker
        self._scorers = scorers
        self._writer = writer
        self._cancellations = cancellations

    def run(self, payload: RerankPayload, served: Served, chunks: Sequence[ClaimedChunk]) -> Counter[str]:
        """Score and persist the chunks of one message; returns how many items are done, failed, skipped and moved.

        Raises:
            psycopg.Error: the database did not answer; nothing was written.
            SpaceRefused: the space's vectors can no longer be trusted; nothing was written.
        """
        began = time.monotonic()
        items = self._reranker.stored([item_id for chunk in chunks for item_id in chunk.item_ids])
        cancelled = self._cancellations.chunks
        wanted = {item_id for chunk in chunks if chunk.chunk_id not in cancelled for item_id in chunk.item_ids}
        order = [item for item in items.values() if item.item_id in wanted]
        try:
            outcomes = self._outcomes(payload, served, chunks[0], order)
        except (ItemError, ModelError) as error:  # of the scorer or the query: it is every item's
            errors = {item.item_id: as_item_error(error, item.external_id) for item in order}
            outcomes = {item.item_id: _outcome(item, errors[item.item_id], None) for item in order}
        outcomes |= {
            item.item_id: _outcome(item, Cancelled(f"{item.external_id}: its job was cancelled"), None)
            for item in items.values()
            if item.item_id not in wanted
        }
        served.check()
        counts = self._writer.flush(served.space_id, chunks, outcomes, self._cancellations.chunks)
        log.info("message_done", kind="rerank", chunks=[chunk.chunk_id for chunk in chunks],
                 seconds=round(time.monotonic() - began, 3), **counts)  # fmt: skip
        return counts

    def _outcomes(
        self, payload: RerankPayload, served: Served, chunk: ClaimedChunk, order: Sequence[Item]
    ) -> dict[int, Outcome]:
        if not order:
            return {}
        loaded = self._scorers.find(payload.scorer).result()
        scored = self._reranker.score(loaded, payload.query, order, served.name, chunk.lane)
        seconds = sum(scored.seconds.values()) / len(order)
        calibrations = self._calibrations([item.item_id for item in order], loaded.name, scored)
        outcomes = {}
        for place, item in enumerate(order):
            error, row = scored.errors.get(place), None
            if place in scored.scores:
                raw = scored.scores[place]
                calibration_id, score = calibrations.get(item.item_id, (None, raw))
                row = {
                    "score": score, "raw_score": raw, "scorer": loaded.name, "scorer_version": scored.version,
                    "calibration_id": calibration_id, "seconds": seconds,
                }  # fmt: skip
            elif error is None:
                error = ScorerRefused(f"{item.external_id}: {loaded.name} gave it no score")
            outcomes[item.item_id] = _outcome(item, error, row)
        return outcomes

    def _calibrations(self, item_ids: Sequence[int], scorer: str, scored: Scored) -> dict[int, tuple[int, float]]:
        """Calibrated scores of items by id, each by the calibration of its own collection."""
        found: dict[int, tuple[int, float]] = {}
        for collection, places in self._reranker.collections(item_ids).items():
            known = self._reranker.calibration(collection, scorer, scored.version)
            mine = [place for place in places if place in scored.scores]
            if known is not None and mine:
                shares = known[1].apply([scored.scores[place] for place in mine])
                found |= {item_ids[place]: (known[0], share) for place, share in zip(mine, shares, strict=True)}
        return found


def _outcome(item: Item, error: ItemError | None, row: dict[str, Any] | None) -> Outcome:
    return Outcome(
        item_id=item.item_id, generation=item.generation, modality=item.modality, external_id=item.external_id,
        error=error, ranking=row,
    )  # fmt: skip
