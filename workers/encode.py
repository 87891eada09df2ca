"""The way of one message: load its items, reuse vectors of the same content, fetch, decode, encode, persist."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import structlog

from workers import metrics
from workers.cancellations import Cancellations, Cancelled
from workers.contents import Contents
from workers.database import Pool
from workers.decoders import Decoders, Step
from workers.encoding import Kind
from workers.engine import Lane
from workers.errors import BadVector, EngineUnavailable, SourceUnavailable
from workers.flights import Boarding, Flights
from workers.ingress import Ingress, digest_of
from workers.items import PART_BYTES, Item, cut_note, load_items, outcomes, parts
from workers.ledger import ClaimedChunk
from workers.queries import query
from workers.spaces import Served
from workers.vector import Vector, normalise
from workers.writer import Writer

log = structlog.get_logger(__name__)


AHEAD_SECONDS = 1.0
"""Of forwards that wait: beyond it nothing is decoded, for decoding slows down the forward that a call waits for. It
covers the flush of a message and the start of the next."""
GROUP = 8
"""Images that are decoded then, before the engine is looked at again."""


class _Budget:
    """Bytes that a part may hold. Safe in threads."""

    def __init__(self, total: int) -> None:
        self._left = total
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Whether `size` bytes still fit; if so they are taken."""
        with self._lock:
            if size > self._left:
                return False
            self._left -= size
            return True


class EncodeWork:
    """Encodes claimed chunks of one space. Safe in threads: each message runs in its caller's thread.

    Args:
        decoders: reads files, decodes and tokenises.
        fetchers: reads what lies on other machines: it waits, so more of it is done at a time.
        cancellations: what is cancelled while it runs is left out from the next batch on.
    """

    def __init__(
        self, pool: Pool, ingress: Ingress, writer: Writer, flights: Flights, decoders: Decoders,
        cancellations: Cancellations, fetchers: Decoders | None = None,
    ) -> None:  # fmt: skip
        self._pool = pool
        self._ingress = ingress
        self._contents = Contents(pool, ingress)
        self._writer = writer
        self._flights = flights
        self._decoders = decoders
        self._fetchers = fetchers or decoders
        self._cancellations = cancellations

    def run(self, served: Served, chunks: Sequence[ClaimedChunk]) -> Counter[str]:
        """Encode and persist the chunks of one message; returns how many items are done, failed, skipped and moved.

        Raises:
            psycopg.Error: the database did not answer; nothing was written.
            SpaceRefused: the model's vectors can no longer be trusted; nothing was written.
        """
        began = time.monotonic()
        items = load_items(self._pool, served, [item_id for chunk in chunks for item_id in chunk.item_ids])
        work = [item for item in items if not item.encoded and item.error is None]
        stats: Counter[str] = Counter()
        wanted_by: dict[int, set[int]] = defaultdict(set)
        for chunk in chunks:
            for item_id in chunk.item_ids:
                wanted_by[item_id].add(chunk.chunk_id)
        with self._flights.boarding() as boarding, self._cancellations.watching() as watch:
            for part in parts(work):
                wanted = [item for item in part if not self._drop_cancelled(item, wanted_by[item.item_id])]
                self._start_part(
                    served, chunks[0].lane, wanted, boarding, stats,
                    lambda future, item: watch.add(future, wanted_by[item]),
                )  # fmt: skip
            known = outcomes(items)
            served.check()
            counts = self._writer.flush(served.space_id, chunks, known, self._cancellations.chunks)
        cut = sum(item.truncated for item in items)
        if cut:
            log.warning("texts_truncated", space=served.name, texts=cut, context_length=served.encoder.context_length)
        log.info(
            "message_done",
            space=served.name,
            jobs=sorted({chunk.job_id for chunk in chunks}),
            chunks=[chunk.chunk_id for chunk in chunks],
            encoded=stats["encoded"],
            stored_before=len(items) - len(work),
            seconds=round(time.monotonic() - began, 3),
            **counts,
        )
        return counts

    def _drop_cancelled(self, item: Item, wanted_by: set[int]) -> bool:
        """Whether nobody wants the item any more; it has an error then."""
        if not wanted_by <= self._cancellations.chunks:
            return False
        item.error = Cancelled(f"{item.external_id}: its job was cancelled")
        return True

    def _start_part(
        self, served: Served, lane: Lane, part: list[Item], boarding: Boarding, stats: Counter[str],
        watch: Callable[[Future[Any], int], None],
    ) -> None:  # fmt: skip
        """Bring a part's items to the engine, or to the vector that another item has already."""
        budget = _Budget(PART_BYTES)
        read = _timed("read", lambda item: self._read(item, budget))
        self._decoders.each(read, [item for item in part if not item.is_remote])
        self._fetchers.each(read, [item for item in part if item.is_remote])
        first: dict[tuple[str, bytes], tuple[Item, Future[Vector]]] = {}
        for item in part:
            if item.error is None and item.actual is not None:
                item.vector, mine = boarding.join((served.space_id, item.modality, item.actual))
                if mine:
                    first[item.modality, item.actual] = item, item.vector
        for key, vector in self._reusable(served, list(first)):
            first.pop(key)[1].set_result(vector)
        self._read_uploads([item for item, _ in first.values()])
        kinds: tuple[Kind, Kind] = ("image", "text")
        for kind in kinds:
            left = [pair for pair in first.values() if pair[0].modality == kind]
            while left:  # an engine knows only the kinds that its model takes
                # Texts are no work to prepare, and sorted by length: the more of them wait, the better.
                early = kind == "image" and served.engine.hold_back(lane, AHEAD_SECONDS)
                group, left = (left[:GROUP], left[GROUP:]) if early else (left, [])
                stats["encoded"] += self._submit(served, lane, kind, group, watch)

    def _submit(
        self, served: Served, lane: Lane, kind: Kind, group: Sequence[tuple[Item, Future[Vector]]],
        watch: Callable[[Future[Any], int], None],
    ) -> int:  # fmt: skip
        """Prepare items and give them to the engine; returns how many could be."""
        prepared = self._decoders.each(
            _timed("prepare", lambda item: self._prepare(served, item)), [item for item, _ in group]
        )
        ready = [(pair, done) for pair, done in zip(group, prepared, strict=True) if done is not None]
        vectors = served.engine.submit(kind, [done for _, done in ready], lane)
        for ((item, flight), _), coming in zip(ready, vectors, strict=True):
            coming.add_done_callback(partial(_land, flight, item.note))
            watch(coming, item.item_id)
        for (item, flight), done in zip(group, prepared, strict=True):
            if done is None:
                flight.set_exception(item.error or EngineUnavailable("the item was not prepared"))
        return len(ready)

    def _reusable(
        self, served: Served, contents: list[tuple[str, bytes]]
    ) -> Iterator[tuple[tuple[str, bytes], Vector]]:
        """Stored vectors by modality and digest, of those contents that have one in the space."""
        if not contents:
            return
        arguments = {
            "space_id": served.space_id,
            "modalities": [modality for modality, _ in contents],
            "digests": [digest for _, digest in contents],
        }
        with self._pool.connection() as connection, connection.cursor(binary=True) as cursor:
            rows = cursor.execute(query("reusable_vectors"), arguments).fetchall()
        for row in rows:
            yield (row["modality"], row["digest"]), Vector(row["vec"].to_numpy(), row["norm"], row["note"])

    def _read(self, item: Item, budget: _Budget) -> None:
        """Learn the digest of the content; the bytes of uploads are read only if they are needed."""
        if item.text is not None:
            item.actual = digest_of(self._ingress.check_text(item.text, item.external_id))
        elif item.blob_digest is not None:
            item.actual = item.blob_digest
        else:
            data = self._ingress.read_uri(item.uri or "", item.external_id)
            item.actual = digest_of(data)
            # What does not fit is read again when its turn to be decoded comes, rather than held.
            item.data = data if budget.take(len(data)) else None

    def _read_uploads(self, items: Sequence[Item]) -> None:
        outside = self._contents.load_uploads(items)
        self._fetchers.each(self._fetch, outside)
        for item in items:
            if item.blob_digest is not None and item.data is None and item.error is None:
                item.error = SourceUnavailable(f"{item.external_id}: its uploaded content is gone")

    def _fetch(self, item: Item) -> None:
        item.data = self._contents.image_bytes(item)

    def _prepare(self, served: Served, item: Item) -> Any:
        """What the engine takes: uint8 (S, S, 3), or a prepared text."""
        if item.text is not None:
            prepared = served.encoder.prepare_text(item.text)
            item.truncated = prepared.truncated
            item.note = "; ".join(cut_note(prepared, served.encoder.context_length)) or None
            return prepared
        if item.error is not None:  # reading its upload failed
            raise item.error
        read_again = item.data is None
        data = self._contents.image_bytes(item)
        if read_again and digest_of(data) != item.actual:
            raise SourceUnavailable(f"{item.external_id}: {item.uri} changes while it is read")
        return self._contents.decode(item, data, served.encoder.prepare_image, served.encoder.decode_size)


def _timed(name: str, step: Step) -> Step:
    seconds = metrics.DECODE.labels(name)

    def timed(item: Item) -> Any:
        with seconds.time():
            return step(item)

    return timed


def _land(flight: Future[Vector], note: str | None, done: Future[np.ndarray]) -> None:
    """Hand the engine's answer to all who wait for this content."""
    error = done.exception() if not done.cancelled() else Cancelled("its job was cancelled")
    with contextlib.suppress(Exception):  # settled meanwhile, because the message was given up
        if error is None:
            try:
                flight.set_result(replace(normalise(done.result()), note=note))
            except BadVector as bad:
                flight.set_exception(bad)
        else:
            flight.set_exception(error)
