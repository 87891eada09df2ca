"""Scores candidates for a query: reads and prepares them, has them scored, and gives each bad one its own error."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import numpy as np

from models.errors import ModelError
from models.late_interaction import LateInteractionScorer, clauses, crops, max_sim
from models.protocols import PreparedPart, Scorer
from models.scorer import DualEncoderScorer, check_pair
from models.scorers import version_of
from sightline.calibration import Calibration
from workers.contents import Contents
from workers.database import Pool
from workers.decoders import Decoders
from workers.engine import Expired, Lane
from workers.errors import EncodeFailed, EngineUnavailable, InvalidInput, ItemError, NotEncoded, UnsupportedModality
from workers.items import Item, as_item_error
from workers.queries import query
from workers.query_texts import GRACE, QueryTexts
from workers.scorers import LoadedScorer
from workers.scoring import Pair
from workers.spaces import Served, Spaces
from workers.vector import normalise

PART = 32
"""Candidates that are prepared together: while they are scored the next ones are prepared."""
JOB_SECONDS = 600.0
"""How long a score of a job is waited for."""


@dataclass(slots=True)
class Scored:
    """What became of candidates.

    Args:
        scores: of those that have one, by the place of the candidate; raw.
        errors: of the others.
        notes: what of a candidate was not read.
        query_notes: what of the query was not read.
        version: of the scorer.
        seconds: that each stage took.
    """

    scores: dict[int, float] = field(default_factory=dict)
    errors: dict[int, ItemError] = field(default_factory=dict)
    notes: dict[int, str] = field(default_factory=dict)
    query_notes: tuple[str, ...] = ()
    version: str = ""
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add to the seconds of a stage."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - began


class Reranker:
    """Scores the candidates of calls and jobs. Safe in threads: each runs in its caller's.

    Args:
        pool: of connections.
        spaces: for scorers that work with their vectors.
        contents: reads what candidates hold.
        decoders: prepare candidates.
        texts: vectors of queries that were asked before.
    """

    def __init__(self, pool: Pool, spaces: Spaces, contents: Contents, decoders: Decoders, texts: QueryTexts) -> None:
        self._pool = pool
        self._spaces = spaces
        self._contents = contents
        self._decoders = decoders
        self._texts = texts

    def stored(self, item_ids: Sequence[int]) -> dict[int, Item]:
        """Items by id, without their content; those that do not exist are lacking. Raises psycopg.Error."""
        with self._pool.connection() as connection:
            rows = connection.execute(query("load_candidates"), {"item_ids": sorted(set(item_ids))}).fetchall()
        return {row["item_id"]: Item(**row) for row in rows}

    def collections(self, item_ids: Sequence[int]) -> dict[str, list[int]]:
        """The places of these items by the names of their collections. Raises psycopg.Error."""
        with self._pool.connection() as connection:
            rows = connection.execute(query("collections_of"), {"item_ids": list(item_ids)}).fetchall()
        return {row["collection"]: row["places"] for row in rows}

    def calibration(self, collection: str, scorer: str, version: str) -> tuple[int, Calibration] | None:
        """The newest one of a collection, a scorer and its version."""
        asked = {"collection": collection, "scorer": scorer, "version": version}
        with self._pool.connection() as connection:
            row = connection.execute(query("newest_calibration"), asked).fetchone()
        return None if row is None else (row["calibration_id"], Calibration(row["method"], row["params"]))

    def score(
        self, loaded: LoadedScorer, asked: str, items: Sequence[Item | ItemError], space: str, lane: Lane,
        deadline: float | None = None,
    ) -> Scored:  # fmt: skip
        """Score items for a query in words.

        Args:
            loaded: the scorer.
            asked: the query.
            items: candidates; an error stands for one that was not found.
            space: whose vectors a scorer may use.
            lane: who goes first.
            deadline: of `time.monotonic()`.

        Raises:
            ItemError, ModelError: the query itself cannot be used.
            SpaceRefused: the space is not served.
            Expired, TimeoutError: the deadline passed.
            psycopg.Error: the database did not answer.
        """
        scored = Scored(errors={place: item for place, item in enumerate(items) if isinstance(item, ItemError)})
        left = {place: item for place, item in enumerate(items) if isinstance(item, Item)}
        if loaded.scorer is None:
            self._by_vectors(loaded.name, asked, left, space, deadline or time.monotonic() + JOB_SECONDS, scored)
        else:
            scored.version = loaded.version or ""
            self._by_model(loaded, loaded.scorer, asked, left, lane, deadline, scored)
        return scored

    # Scorers with a model ---------------------------------------------------------------------------------------------

    def _by_model(
        self, loaded: LoadedScorer, scorer: Scorer, asked: str, items: Mapping[int, Item], lane: Lane,
        deadline: float | None, scored: Scored,
    ) -> None:  # fmt: skip
        ready = scorer.prepare(asked, "query")
        if ready.truncated:
            scored.query_notes = ("only the beginning of the query was read",)
        coming: dict[int, Future[Any]] = {}
        parts = dict[int, PreparedPart]()
        places = list(items)
        for first in range(0, len(places), PART):
            some = places[first : first + PART]
            with scored.timed("read"):
                self._contents.load_uploads([items[place] for place in some])
            with scored.timed("prepare"):
                found = self._decoders.each(
                    lambda item: self._prepared(scorer, ready, item), [items[place] for place in some]
                )
            fresh = {place: part for place, part in zip(some, found, strict=True) if part is not None}
            parts |= fresh
            if loaded.engine is not None:
                pairs = [Pair(ready, part) for part in fresh.values()]
                coming |= dict(zip(fresh, loaded.engine.submit("pair", pairs, lane, deadline), strict=True))
        for place, item in items.items():
            self._note(place, item, parts.get(place), scored)
        with scored.timed("score"):
            if loaded.engine is None:
                self._remotely(scorer, ready, parts, items, scored)
            for place, future in coming.items():
                self._land(place, items[place], future, deadline, scored)

    def _prepared(self, scorer: Scorer, asked: PreparedPart, item: Item) -> PreparedPart:
        if item.text is not None and not item.text.strip():
            raise InvalidInput(f"{item.external_id}: the text is empty; leave it out")
        check_pair(scorer.takes, asked.modality, item.modality)
        part: PreparedPart = self._contents.prepare(
            item, lambda text: scorer.prepare(text, "candidate"), lambda image: scorer.prepare(image, "candidate"),
            getattr(scorer, "decode_size", None),
        )  # fmt: skip
        return part

    def _remotely(
        self, scorer: Scorer, asked: PreparedPart, parts: Mapping[int, PreparedPart], items: Mapping[int, Item],
        scored: Scored,
    ) -> None:  # fmt: skip
        """Of an endpoint: one request; what it refuses is every candidate's error."""
        try:
            found = scorer.score(asked, list(parts.values()))
        except ModelError as error:
            # What may pass is tried again, in a job.
            blame = EngineUnavailable if getattr(error, "retryable", False) else EncodeFailed
            told = f"{type(error).__name__}: {error}"
            scored.errors |= {place: blame(f"{items[place].external_id}: {told}") for place in parts}
        else:
            scored.scores |= dict(zip(parts, map(float, found), strict=True))

    def _land(self, place: int, item: Item, future: Future[Any], deadline: float | None, scored: Scored) -> None:
        seconds = JOB_SECONDS if deadline is None else deadline - time.monotonic() + GRACE
        try:
            scored.scores[place] = float(future.result(seconds))
        except (Expired, TimeoutError):
            if deadline is not None:
                raise
            scored.errors[place] = as_item_error(TimeoutError(), item.external_id)
        except Exception as error:  # noqa: BLE001 - it is this candidate's answer
            scored.errors[place] = as_item_error(error, item.external_id)

    def _note(self, place: int, item: Item, part: PreparedPart | None, scored: Scored) -> None:
        if item.error is not None:
            scored.errors[place] = item.error
        elif part is not None and part.truncated:
            scored.notes[place] = "only the beginning of the text was read"
        elif item.note is not None:
            scored.notes[place] = item.note

    # Scorers of a space's vectors -------------------------------------------------------------------------------------

    def _by_vectors(
        self, name: str, asked: str, items: Mapping[int, Item], space: str, deadline: float, scored: Scored
    ) -> None:
        with scored.timed("load"):
            served = self._spaces.find(space).result(deadline - time.monotonic())
        late = name == "late-interaction"
        scorer = (LateInteractionScorer if late else DualEncoderScorer)(served.encoder)
        scored.version = version_of(scorer.identity)
        if "text" not in served.modalities:
            raise UnsupportedModality(f"the query: space {served.name} takes no texts: search it with an image")
        with scored.timed("encode"):
            vectors = self._vectors_of_query(served, clauses(asked) if late else [asked], deadline, scored)
        with scored.timed("read"):
            slots = self._slots(served, [item.item_id for item in items.values() if item.item_id])
        sent = {place: item for place, item in items.items() if not item.item_id}
        with scored.timed("prepare"):
            coming = self._begin_sent(served, sent, deadline, late=late)
        with scored.timed("score"):
            for place, item in items.items():
                self._note(place, item, None, scored)
                if item.error is not None:
                    continue
                try:
                    found = _collected(coming[place], deadline) if place in sent else slots.get(item.item_id)
                    if found is None:
                        raise NotEncoded(
                            f"{item.external_id}: it has no vector of its present content in {served.name}"
                        )
                    scored.scores[place] = max_sim(vectors, found if late else found[:1])
                except (Expired, TimeoutError):
                    raise
                except Exception as error:  # noqa: BLE001 - it is this candidate's answer
                    scored.errors[place] = as_item_error(error, item.external_id)

    def _vectors_of_query(self, served: Served, texts: Sequence[str], deadline: float, scored: Scored) -> np.ndarray:
        found = self._texts.encode(served, dict(enumerate(texts)), deadline)
        vectors = []
        for answer in (found[index] for index in range(len(texts))):
            if isinstance(answer, Exception):
                raise answer
            vectors.append(answer)
        scored.query_notes = () if vectors[0].note is None else (vectors[0].note,)
        return np.stack([vector.values for vector in vectors]).astype(np.float32)

    def _slots(self, served: Served, item_ids: Sequence[int]) -> dict[int, np.ndarray]:
        """Stored vectors of items, (slots, dim) each: the whole item first."""
        if not item_ids:
            return {}
        asked = {"space_id": served.space_id, "item_ids": sorted(set(item_ids))}
        with self._pool.connection() as connection, connection.cursor(binary=True) as cursor:
            rows = cursor.execute(query("stored_slots"), asked).fetchall()
        found: dict[int, list[np.ndarray]] = {}
        for row in rows:
            vector = row["vec"].to_numpy().astype(np.float32)
            found.setdefault(row["item_id"], []).append(vector / np.linalg.norm(vector))
        return {item_id: np.stack(vectors) for item_id, vectors in found.items()}

    def _begin_sent(
        self, served: Served, items: Mapping[int, Item], deadline: float, *, late: bool
    ) -> dict[int, list[Future[Any]]]:
        """Prepare content that callers sent and give it to the engine; what is lacking has an error."""
        made = self._decoders.each(lambda item: self._parts(served, item, late=late), list(items.values()))
        ready = {place: parts for place, parts in zip(items, made, strict=True) if parts is not None}
        coming: dict[int, list[Future[Any]]] = {}
        for kind in ("image", "text"):
            mine = {place: parts for place, parts in ready.items() if items[place].modality == kind}
            futures = iter(served.engine.submit(kind, list(chain(*mine.values())), "interactive", deadline))
            coming |= {place: list(islice(futures, len(parts))) for place, parts in mine.items()}
        return coming

    def _parts(self, served: Served, item: Item, *, late: bool) -> list[Any]:
        """What the engine takes of one item: the whole of it, or its clauses or crops."""
        encoder = served.encoder

        def texts(text: str) -> list[Any]:
            if not text.strip():
                raise InvalidInput(f"{item.external_id}: the text is empty; leave it out")
            return [encoder.prepare_text(part) for part in (clauses(text) if late else [text])]

        def images(image: np.ndarray) -> list[Any]:
            return [encoder.prepare_image(part) for part in (crops(image) if late else [image])]

        parts: list[Any] = self._contents.prepare(item, texts, images)
        return parts


def _collected(futures: Sequence[Future[Any]], deadline: float) -> np.ndarray:
    """The vectors of one item, (parts, dim)."""
    vectors = [normalise(future.result(deadline - time.monotonic() + GRACE)).values for future in futures]
    return np.stack(vectors).astype(np.float32)
