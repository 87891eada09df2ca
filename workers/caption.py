"""The way of a caption message: load and decode images, have the recipe write, score what it wrote, persist it."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import structlog

from models.endpoint.chat import PURPOSE
from models.errors import ModelError
from models.recipes import Answer, Recipe, Subject, Tools, Written, load_recipe
from models.recipes.texts import clean
from sightline.contracts.caption import CaptionPayload
from sightline.errors import SightlineError
from sightline.recipes import RecipeSpec, recipes_of
from workers import metrics
from workers.cancellations import Cancellations, Cancelled
from workers.captioning import CaptionTools, SpaceVectors
from workers.database import Pool
from workers.errors import CaptionFailed, CaptionPutOff, ItemError
from workers.items import as_item_error, load_items, outcomes
from workers.ledger import ClaimedChunk, Ledger
from workers.spaces import Served
from workers.subjects import Pictured, Subjects
from workers.writer import Outcome, Writer

log = structlog.get_logger(__name__)

TURN_SECONDS = 8.0
"""After this long the rest of a message goes back to the ledger, so that other work has its turn."""


class CaptionWork:
    """Captions claimed chunks of one space and payload. Safe in threads: each message runs in its caller's thread."""

    def __init__(
        self, pool: Pool, ledger: Ledger, writer: Writer, subjects: Subjects, tools: CaptionTools,
        cancellations: Cancellations,
    ) -> None:  # fmt: skip
        self._pool, self._ledger, self._writer = pool, ledger, writer
        self._subjects, self._tools, self._cancellations = subjects, tools, cancellations

    def run(self, payload: CaptionPayload, served: Served, chunks: Sequence[ClaimedChunk]) -> Counter[str]:
        """Caption and persist chunks, one after the other; how many items are done, failed, skipped and moved.

        Raises:
            psycopg.Error: the database did not answer; of the chunk under way nothing was written.
            SpaceRefused: the model's vectors can no longer be trusted; of the chunk under way nothing was written.
        """
        began = time.monotonic()
        total: Counter[str] = Counter()
        lane = chunks[0].lane
        writing = _Writing(payload, self._tools.of(served, lane), SpaceVectors(served, lane), served)
        for number, chunk in enumerate(chunks):
            if number and time.monotonic() - began > TURN_SECONDS:
                self._ledger.release([rest.chunk_id for rest in chunks[number:]])
                break
            known = self._caption(writing, served, chunk)
            served.check()
            total += self._writer.flush(served.space_id, [chunk], known, self._cancellations.chunks)
        log.info("message_done", kind="caption", recipe=payload.recipe, space=served.name,
                 chunks=[chunk.chunk_id for chunk in chunks], seconds=round(time.monotonic() - began, 3),
                 **total)  # fmt: skip
        return total

    def _caption(self, writing: _Writing, served: Served, chunk: ClaimedChunk) -> dict[int, Outcome]:
        items = load_items(self._pool, served, chunk.item_ids)
        if chunk.chunk_id in self._cancellations.chunks:
            for item in items:
                item.error = Cancelled(f"{item.external_id}: its job was cancelled")
            return outcomes(items)
        try:
            writing.prepare()
        except (ModelError, SightlineError) as error:  # no tool, no model: it holds for every image
            for item in items:
                item.error = item.error or as_caption_error(error, item.external_id)
            return outcomes(items)
        before: set[int] = set()
        if writing.spec.repeatable and not writing.payload.embed:
            before = self._subjects.done_before(writing.key, [item.item_id for item in items])
        pictured = self._subjects.picture([item for item in items if item.item_id not in before])
        captions: dict[int, list[dict[str, Any]]] = {}
        if pictured:
            captions = self._write(writing, served, pictured)
        return {
            item_id: replace(outcome, captions=tuple(captions.get(item_id, ())))
            for item_id, outcome in outcomes(items).items()
        }

    def _write(
        self, writing: _Writing, served: Served, pictured: Sequence[Pictured]
    ) -> dict[int, list[dict[str, Any]]]:
        """Rows of captions by image; an image without any has an error."""
        encoded = writing.vectors(pictured)
        for each, vector in zip(pictured, encoded, strict=True):
            if isinstance(vector, Exception):
                each.item.error = as_item_error(vector, each.item.external_id)
        pictured = [each for each, vector in zip(pictured, encoded, strict=True) if isinstance(vector, np.ndarray)]
        if not pictured:
            return {}
        vectors = np.stack([vector for vector in encoded if isinstance(vector, np.ndarray)])
        images = [each.image for each in pictured]
        if "neighbours" in writing.spec.needs:
            self._subjects.find_neighbours(served, pictured, vectors, writing.params.k)
        subjects = self._subjects.subjects(writing.spec, writing.params, writing.payload.lang, pictured, vectors)
        answers = writing.answers(subjects)
        rows: dict[int, list[dict[str, Any]]] = {}
        for each, answer in zip(pictured, answers, strict=True):
            if isinstance(answer, BaseException):
                each.item.error = as_caption_error(answer, each.item.external_id)
            elif not (found := writing.rows(each, answer)):
                each.item.error = CaptionFailed(
                    f"{each.item.external_id}: nothing was written about it", "EmptyCaption"
                )
            else:
                rows[each.item.item_id] = found
        writing.score(rows, {each.item.item_id: n for n, each in enumerate(pictured)}, images, vectors)
        metrics.CAPTIONS.labels(writing.spec.name).inc(sum(map(len, rows.values())))
        return rows


class _Writing:
    """One payload at work in one space."""

    def __init__(self, payload: CaptionPayload, tools: Tools, vectors: SpaceVectors, served: Served) -> None:
        self.payload = payload
        self.spec: RecipeSpec = recipes_of("caption")[payload.recipe]
        self.params: Any = self.spec.fill(payload.params)
        self._tools, self._vectors, self._served = tools, vectors, served
        self._recipe: Recipe | None = None
        self._model = ""
        self._digest = ""
        self._filled: dict[str, Any] = {}

    @property
    def key(self) -> dict[str, Any]:
        """What captions of this payload have in common."""
        return {"recipe": self.spec.name, "model": self._model, "params_digest": bytes.fromhex(self._digest),
                "lang": self.payload.lang, "space_id": self._served.space_id}  # fmt: skip

    def prepare(self) -> None:
        """Load what writes. Raises ModelError."""
        if self._recipe is not None:
            return
        recipe = load_recipe(self.spec.name)
        if self._tools.has("matcher"):
            self._tools.get("matcher")
        self._model = recipe.model(self._tools, self.params)
        if self.payload.model not in (None, self._model):
            raise ModelError(
                f"the job asks for model {self.payload.model}, and this worker writes with {self._model}: start "
                f"workers with that model (SIGHTLINE_CAPTIONER_MODEL), or leave it out"
            )
        self._filled = self.params.model_dump(mode="json")
        filled = {"params": self._filled, "versions": recipe.versions(self.params)}
        self._digest = hashlib.sha256(json.dumps(filled, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
        self._recipe = recipe

    def vectors(self, pictured: Sequence[Pictured]) -> list[np.ndarray | Exception]:
        """The unit vector of each image in the space, or why there is none."""
        return self._vectors.each("image", [each.image for each in pictured])

    def answers(self, subjects: Sequence[Subject]) -> Sequence[Answer | BaseException]:
        """What the recipe writes of each; when it fails as a whole, each image is tried alone."""
        assert self._recipe is not None
        PURPOSE.set(self.spec.name)
        try:
            return self._recipe.write(subjects, self._tools, self.params)
        except ModelError as error:
            return [error] * len(subjects)
        except Exception:
            if len(subjects) == 1:
                raise
            log.exception("recipe_failed", recipe=self.spec.name, images=len(subjects))
        found: list[Answer | BaseException] = []
        for subject in subjects:
            try:
                found += self._recipe.write([subject], self._tools, self.params)
            except Exception as error:  # noqa: BLE001 - it is this image's answer
                found.append(error)
        return found

    def rows(self, pictured: Pictured, written: Sequence[Written]) -> list[dict[str, Any]]:
        """Rows for `sightline.write_captions`, without their scores; empty texts are left out."""
        rows: list[dict[str, Any]] = []
        for each in written:
            text, cut = clean(each.text)
            if not text:
                continue
            provenance = {**each.provenance, "space": self._served.name}
            if pictured.item.note:
                provenance["image"] = pictured.item.note
            rows.append({
                "item_id": pictured.item.item_id, "recipe": self.spec.name, "model": self._model,
                "params_digest": self._digest, "params": self._filled,
                "lang": self.payload.lang, "n": len(rows), "text": text, "score": _finite(each.score),
                "scores": {name: _finite(value) for name, value in each.scores.items()}, "negative": each.negative,
                "truncated": each.truncated or cut, "provenance": provenance, "as_item": each.as_item,
            })  # fmt: skip
        return rows

    def score(
        self, rows: dict[int, list[dict[str, Any]]], places: dict[int, int], images: Sequence[np.ndarray],
        vectors: np.ndarray,
    ) -> None:  # fmt: skip
        """Give each caption its alignment in the space, and what the matcher says of it."""
        flat = [row for found in rows.values() for row in found]
        if self._tools.has("encoder") and flat:
            for row, text in zip(flat, self._vectors.each("text", [row["text"] for row in flat]), strict=True):
                if isinstance(text, np.ndarray):
                    row["alignment"] = _finite(float(text @ vectors[places[row["item_id"]]]))
                    row["alignment_space"] = self._served.space_id
        if self._tools.has("matcher") and flat:
            matcher = self._tools.matcher
            found = matcher.match(
                [images[places[item_id]] for item_id in rows], [[row["text"] for row in each] for each in rows.values()]
            )
            for each, odds in zip(rows.values(), found, strict=True):
                for row, value in zip(each, odds, strict=True):
                    row["match"], row["matcher"] = _finite(float(value)), matcher.model


def _finite(number: float | None) -> float | None:
    return number if number is not None and np.isfinite(number) else None


def as_caption_error(error: BaseException, name: str) -> ItemError:
    """The failure of one image, with the class that the model's own error has."""
    if not isinstance(error, ModelError | SightlineError):
        return as_item_error(error, name)
    kind = CaptionPutOff if getattr(error, "retryable", False) else CaptionFailed
    message = str(error)
    return kind(message if message.startswith(name) else f"{name}: {message}", type(error).__name__)
