"""The client: ingest, search, wait. Needs neither torch nor Celery."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, SupportsFloat

import structlog
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from sightline import control
from sightline.broker import Broker, as_reply
from sightline.composed import composed_query
from sightline.control import FailureFilter, Missing, Retry
from sightline.database import Database, LentConnection
from sightline.deletion import Deleted, count_items, delete_items, delete_orphans
from sightline.errors import ServiceMissing, UsageError
from sightline.hybrid import hybrid_hits
from sightline.ingest import Ingest, tuple_cursor
from sightline.item import Ingestible, path_of_uri
from sightline.job import Job
from sightline.media import MediaStore
from sightline.plan import IngestPlan, plan_ingest
from sightline.prune import Pruned, prune
from sightline.query import check_modalities, check_search, image_bytes_of, naming_the_query
from sightline.rerank import Ranking, RerankCandidate, rerank, reranked
from sightline.results import Hit, Hits, Modality, Space, Status
from sightline.settings import Settings, libpq_url

if TYPE_CHECKING:
    from sightline.calibrate import CalibrationReport, LabelledPair
    from sightline.calibration import Method
    from sightline.compose import Compose  # they need numpy, which a search does not
    from sightline.transfer.exporter import ExportReport
    from sightline.transfer.importer import ImportReport
    from sightline.transfer.pairs import PairsReport

log = structlog.get_logger(__name__)

Lane = Literal["interactive", "normal", "bulk"]

_SELECT_SPACE = (
    "select name, model, revision, dim, modalities, pool, passport, "
    "array(select alias from sightline.space_alias a where a.space_id = s.space_id order by 1) as aliases"
)


class Sightline:
    """A connection to sightline. Safe in threads; use as a context manager, or call `close()`.

    Args:
        database_url: Postgres DSN; by default SIGHTLINE_DATABASE_URL, else the embedded stack that `sightline up` runs.
        redis_url: Redis DSN; by default SIGHTLINE_REDIS_URL, else that of the embedded stack.
        settings: all settings; by default from the environment.

    Raises:
        ServiceMissing: neither is set and no embedded stack runs.
    """

    def __init__(
        self, database_url: str | None = None, redis_url: str | None = None, *, settings: Settings | None = None
    ) -> None:
        self.settings = settings or Settings()
        self.database_url, self._redis_url = service_urls(self.settings, database_url, redis_url)
        self.database = Database(self.database_url)
        self._broker: Broker | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self.database.close()
        if self._broker is not None:
            self._broker.close()

    @property
    def broker(self) -> Broker:
        """The Redis side; needed for searches by text or image only."""
        if self._broker is None:
            if self._redis_url is None:
                raise ServiceMissing("searching by text or image needs Redis: set SIGHTLINE_REDIS_URL")
            self._broker = Broker(self._redis_url, self.settings.key_prefix)
        return self._broker

    def ingest(
        self,
        items: Ingestible | Iterable[Ingestible],
        *,
        collection: str,
        space: str = "current",
        root: str | os.PathLike[str] | None = None,
        lane: Lane = "bulk",
        connection: LentConnection | None = None,
        progress: bool = False,
    ) -> Job:
        """Store items and submit the job that encodes them.

        Items stream: any iterable, read once, at most one batch is held in memory. What has a vector of the same
        content already is counted as unchanged. An item that cannot be read becomes a failure of the job; its
        neighbours go on.

        Args:
            items: paths of files or folders, bytes of image files, `Item`s, or mappings of their fields.
            collection: made when it does not exist.
            space: name or alias of the space to encode into.
            root: paths are named relative to it (default: to the folder given).
            lane: who goes first when work waits.
            connection: a connection of yours (psycopg, SQLAlchemy): everything happens in its transaction and runs
                once you commit.
            progress: show on stderr how many items were submitted.

        Raises:
            RequestRefused: no such space, or a bad argument.
            ServiceMissing: Postgres cannot be reached.
        """
        ingest = Ingest(
            self.database, self.settings, collection=collection, space=space, lane=lane, connection=connection
        )
        return ingest.run(items, None if root is None else Path(root), progress=progress)

    def plan_ingest(
        self,
        items: Ingestible | Iterable[Ingestible],
        *,
        collection: str,
        space: str = "current",
        root: str | os.PathLike[str] | None = None,
        progress: bool = False,
    ) -> IngestPlan:
        """What `ingest` of the same arguments would do, in counts, bytes, hours and gigabytes. Writes nothing.

        Files that are stored are read only if their mtime or size changed, new ones not at all.
        """
        return plan_ingest(
            self.database, self.settings, items,
            collection=collection, space=space, root=None if root is None else Path(root), progress=progress,
        )  # fmt: skip

    def prune(
        self,
        folders: Iterable[str | os.PathLike[str]],
        *,
        collection: str,
        root: str | os.PathLike[str] | None = None,
        everything: bool = False,
        dry_run: bool = False,
        progress: bool = False,
    ) -> list[Pruned]:
        """Delete the items, and their vectors, of files that are no longer in folders that were ingested.

        Only items that an ingest named by their path below a folder (or below `root`) are looked at, and only a file
        that the operating system says is not there counts as gone.

        Args:
            folders: as they were given to `ingest`.
            collection: its name.
            root: as it was given to `ingest`.
            everything: go on where more than half of a folder's items are gone.
            dry_run: only count.
            progress: show on stderr how many files were looked up.

        Raises:
            PolicyRefused: more than half are gone, or a file cannot be looked up; nothing was deleted.
        """
        return prune(
            self.database, collection, [Path(folder) for folder in folders], None if root is None else Path(root),
            everything=everything, dry_run=dry_run, progress=progress,
        )  # fmt: skip

    def import_vectors(
        self,
        space: str,
        vectors: Sequence[str | os.PathLike[str]],
        ids: Sequence[str | os.PathLike[str]] = (),
        *,
        collection: str | None = None,
        modality: Modality = "image",
        id_column: str | None = None,
        source_column: str | None = None,
        text_column: str | None = None,
        vector_column: str = "vector",
        root: str | os.PathLike[str] | None = None,
        passport: str | os.PathLike[str] | None = None,
        assume_passport: bool = False,
        progress: bool = False,
    ) -> ImportReport:
        """Store vectors that were computed elsewhere. Needs the rights of the schema's owner.

        Doing it again writes only what differs. A bad row (NaN, zero, an id given twice) becomes a failure of a job, as
        in an ingest; its neighbours are stored. An item without a source gets the uri `vector:<id>`: it can be found,
        and cannot be encoded again.

        Args:
            space: name or alias of the space, made for the model that computed the vectors.
            vectors: `.npy` files of float16 or float32 (rows, dim), parquet files, or folders of either.
            ids: files of ids, or of rows (.txt, .json, .jsonl, .npy, .parquet): as many as of vectors, or one for all.
                None for what `export_vectors` wrote, and where parquet files hold ids beside the vectors.
            collection: by default the one that an exported row names, else `default`.
            modality: of rows that do not name their own.
            id_column: the external_id; by default `external_id` or `id`, else the source.
            source_column: path or URI of the content; by default `uri`.
            text_column: the text, which rows of texts must have; by default `text`.
            vector_column: of parquet files.
            root: paths are relative to it, and ids that are paths are named relative to it, as in `ingest`.
            passport: of the model that computed the vectors; by default `passport.json` beside them.
            assume_passport: there is none, but they are of the space's model. A few are compared, where the contents
                can be read here.
            progress: show on stderr how many rows were stored.

        Raises:
            UsageError: files that cannot be read or do not fit each other or the space; nothing was stored.
            RequestRefused: the passport is another than the space's; the message says in what they differ.
            PolicyRefused: the vectors are not what the space's model makes of the contents.
        """
        from sightline.transfer.importer import import_vectors

        return import_vectors(
            self, space, [Path(path) for path in vectors], [Path(path) for path in ids], collection=collection,
            modality=modality, id_column=id_column, source_column=source_column, text_column=text_column,
            vector_column=vector_column, root=None if root is None else Path(root),
            passport=None if passport is None else Path(passport), assume_passport=assume_passport, progress=progress,
        )  # fmt: skip

    def export_vectors(
        self,
        space: str,
        folder: str | os.PathLike[str],
        *,
        file_format: Literal["npy", "parquet"] = "npy",
        collection: str | None = None,
        modality: Modality | None = None,
        unnormalised: bool = False,
        progress: bool = False,
    ) -> ExportReport:
        """Write the vectors of a space, their items and the space's passport into a new folder.

        `npy`: `vectors_00000.npy` and, row for row, `items_00000.jsonl`. `parquet`: `part_00000.parquet`. The folder is
        there whole or not at all. Vectors of content that changed since are left out, and counted.

        Args:
            space: name or alias of the space.
            folder: made by the export.
            file_format: npy, or parquet, which needs the extra `parquet`.
            collection: only this one.
            modality: only images, or only texts.
            unnormalised: float32 times the norm that the vectors had, instead of float16 of length 1.
            progress: show on stderr how many rows were written.

        Raises:
            UsageError: the folder is there already, or there is no such collection.
        """
        from sightline.transfer.exporter import export_vectors

        return export_vectors(
            self, space, Path(folder), file_format=file_format, collection=collection, modality=modality,
            unnormalised=unnormalised, progress=progress,
        )  # fmt: skip

    def export_pairs(
        self,
        folder: str | os.PathLike[str],
        *,
        file_format: Literal["webdataset", "parquet"] = "webdataset",
        collection: str | None = None,
        keep_share: float | None = None,
        keep_by: Literal["match", "alignment"] = "match",
        balance: str | os.PathLike[str] | None = None,
        per_entry: int = 20_000,
        shard_pairs: int = 1000,
        seed: str = "0",
        progress: bool = False,
    ) -> PairsReport:
        """Write images with their captions into shards to train on.

        Each pair is an image, the caption to train on (the selected one, else the owner's, else the one that matches
        best) and, as JSON, the item with all its captions, their scores and provenance; negatives are marked. Run again
        with the same arguments, it goes on behind the last whole shard. The same stored rows give the same shards.

        Args:
            folder: made by the export; `export.json` in it says how far it is.
            file_format: webdataset (tar files), or parquet, which needs the extra `parquet`.
            collection: only this one.
            keep_share: keep this share of the pairs that have a score, the best first.
            keep_by: the score: the matcher's probability, or the cosine of image and caption.
            balance: a file of words and phrases, one a line; captions are kept by them as MetaCLIP does, and those that
                name none are left out.
            per_entry: about how many pairs a common entry keeps.
            shard_pairs: in one file.
            seed: of the hashes that decide; another one keeps others.
            progress: show on stderr how many images were looked at.

        Raises:
            UsageError: a wrong argument, a folder of something else, or no such collection.
        """
        from sightline.transfer.pairs import PairsPlan, export_pairs

        plan = PairsPlan(
            file_format, collection, keep_share, keep_by, None if balance is None else Path(balance), per_entry,
            shard_pairs, seed,
        )  # fmt: skip
        return export_pairs(self, Path(folder), plan, progress=progress)

    def submit(
        self,
        kind: str,
        payload: Mapping[str, Any] | None = None,
        *,
        collection: str | None = None,
        items: Sequence[int | Mapping[str, Any]] | None = None,
        lane: Lane = "normal",
        run_at: datetime | None = None,
        idempotency_key: str | None = None,
        connection: LentConnection | None = None,
    ) -> Job:
        """Submit a job on stored items (by id), on specifications of new ones, or on a whole collection.

        This is SQL's `sightline.submit`; docs/enqueue.md explains the arguments.

        Args:
            kind: of the job, as `encode`.
            payload: by its contract (docs/contracts.md); None is that of all defaults.
            collection: of the items; made when it does not exist and items are given.
            items: ids of stored items, or objects; None means all of the collection that have no vector yet.
            lane: who goes first when work waits.
            run_at: it begins then and not before, by the clock of Postgres; with a time zone.
            idempotency_key: a second submit with the same key and arguments is the first one's job.
            connection: a connection of yours (psycopg, SQLAlchemy), in whose transaction it is submitted.

        Raises:
            UsageError: an argument of the wrong type.
            ContractViolated: the payload does not fit the contract of its kind (docs/contracts.md), or items are not
                JSON.
            RequestRefused: the database refused another argument.
        """
        from sightline.contracts.check import check_payload  # here, for few commands need it
        from sightline.contracts.problem import as_text

        check_payload(kind, {} if payload is None else payload)
        if run_at is not None and (not isinstance(run_at, datetime) or run_at.tzinfo is None):
            raise UsageError(f"run_at must be a datetime with a time zone, not {run_at!r:.80}")
        if items is not None and not isinstance(items, (list, tuple)):
            raise UsageError(f"items must be a list, not a {type(items).__name__}")
        if idempotency_key is not None and (not isinstance(idempotency_key, str) or not idempotency_key):
            raise UsageError(f"idempotency_key must be a string and not empty, not {idempotency_key!r:.50}")
        specifications = None if items is None else as_text(items, "items")
        with tuple_cursor(self.database, connection) as cursor:
            row = cursor.execute(
                "select sightline.submit(%s, %s, %s, %s::jsonb, %s, run_at => coalesce(%s::timestamptz, now()), "
                "idempotency_key => %s)",
                (
                    kind,
                    Jsonb(dict(payload or {})),
                    collection,
                    specifications,
                    lane,
                    run_at,
                    idempotency_key,
                ),
            ).fetchone()
        assert row is not None
        return Job(self.database, row[0], connection)

    def caption(
        self,
        collection: str | None = None,
        *,
        recipe: str = "describe",
        params: Mapping[str, Any] | None = None,
        items: Sequence[int | Mapping[str, Any]] | None = None,
        model: str | None = None,
        lang: str = "en",
        space: str = "current",
        embed: bool = False,
        lane: Lane = "bulk",
        idempotency_key: str | None = None,
        connection: LentConnection | None = None,
    ) -> Job:
        """Have captions written for stored images; they become rows of the view `captions`.

        Args:
            collection: of which every image is captioned, or that `items` belong to.
            recipe: how they are written (`sightline recipes`).
            params: of the recipe; what is left out has its default.
            items: ids of stored images, to caption these alone.
            model: the captioner, for a job that must not be done with another one.
            lang: language of the captions, a BCP 47 tag.
            space: whose encoder scores and, with `embed`, encodes the captions.
            embed: encode the captions too, for searches by vector; that is a job of its own, which follows.
            lane: who goes first when work waits.
            idempotency_key: a second call with the same key and arguments is the first one's job.
            connection: a connection of yours (psycopg, SQLAlchemy), in whose transaction it is submitted.

        Raises:
            ContractViolated: no such recipe, or parameters that it does not take.
            RequestRefused: no such collection, space or item, or a space that does not fit.
        """
        payload = {"recipe": recipe, "params": dict(params or {}), "model": model, "lang": lang, "space": space,
                   "embed": embed}  # fmt: skip
        return self.submit(
            "caption", payload, collection=collection, items=items, lane=lane, idempotency_key=idempotency_key,
            connection=connection,
        )  # fmt: skip

    def select_best(
        self,
        rule: Literal["match", "alignment"] = "match",
        *,
        collection: str | None = None,
        recipes: Sequence[str] | None = None,
        lang: str | None = None,
    ) -> int:
        """Mark one caption of each image as the selected one; returns how many images have one now.

        Args:
            rule: `match`: the likeliest by the matcher; `alignment`: the nearest to its image in the space.
            collection: of the images; None for all.
            recipes: to choose among; None for all.
            lang: to choose among; None for all.
        """
        with self.database.transaction() as connection:
            row = connection.execute(
                "select sightline.select_best(%s, %s, %s, %s)",
                (rule, collection, None if recipes is None else list(recipes), lang),
            ).fetchone()
        assert row is not None
        return int(row[0])

    def job(self, job_id: int) -> Job:
        """A job by its number."""
        return Job(self.database, job_id)

    def retry(
        self,
        *,
        job_id: int | None = None,
        collection: str | None = None,
        error_class: str | None = None,
        failure_ids: Sequence[int] | None = None,
        everything: bool = False,
    ) -> list[Retry]:
        """Do failed items again: a new job for each job that they failed in, which settles the failures.

        Args:
            job_id: failures of this job only.
            collection: of this collection only.
            error_class: of this class only, such as "WorkerLost".
            failure_ids: of these only.
            everything: all that are neither retried nor dismissed; then no filter is given.

        Raises:
            RequestRefused: neither a filter is given nor `everything`, or there is no such job or collection.
        """
        return control.retry(self.database, FailureFilter(job_id, collection, error_class, failure_ids, everything))

    def dismiss(
        self,
        *,
        job_id: int | None = None,
        collection: str | None = None,
        error_class: str | None = None,
        failure_ids: Sequence[int] | None = None,
        everything: bool = False,
    ) -> int:
        """Settle failures that nobody will mend, by the filters of `retry`; returns how many."""
        return control.dismiss(self.database, FailureFilter(job_id, collection, error_class, failure_ids, everything))

    def pause(self, *, queue: str | None = None, collection: str | None = None, reason: str | None = None) -> bool:
        """Start nothing more of a queue or collection; what runs is finished. Returns whether it was not paused."""
        return control.pause(self.database, queue, collection, reason)

    def resume(self, *, queue: str | None = None, collection: str | None = None) -> bool:
        """Let a paused queue or collection go on; returns whether it was paused."""
        return control.resume(self.database, queue, collection)

    def rate_limit(self, collection: str, items_per_second: float | None) -> float | None:
        """Let at most so many items of a collection start in a second; None lifts the limit.

        What is published to the workers already, at most a few chunks for each, still runs. A chunk of up to 64 items
        starts whole, and the next one waits until its items are paid for.

        Returns:
            The limit that was there before; None if there was none.
        """
        return control.rate_limit(self.database, collection, items_per_second)

    def reconcile(self, space: str = "current", *, collection: str | None = None) -> list[Missing]:
        """Enqueue the items that lack a vector of their present content in a space, and nothing else.

        One job for each collection, on the bulk lane. Items under way already are not enqueued twice; dismissed ones
        and those without content are left. Failures of what is enqueued are settled by the new job.

        Returns:
            What was missing, by collection and reason, and which job does it.
        """
        return control.reconcile(self.database, space, collection)

    def count_items(
        self, *, collection: str | None = None, external_ids: Sequence[str] | None = None,
        item_ids: Sequence[int] | None = None, older_than: timedelta | None = None,
    ) -> int:  # fmt: skip
        """How many items `delete` would take; the arguments are its."""
        return count_items(self.database, collection, external_ids, item_ids, older_than)

    def delete(
        self, *, collection: str | None = None, external_ids: Sequence[str] | None = None,
        item_ids: Sequence[int] | None = None, older_than: timedelta | None = None,
        on_progress: Callable[[int], object] | None = None,
    ) -> Deleted:  # fmt: skip
        """Delete items, with vectors, captions and uploaded content that no other item uses. Needs the owner's rights.

        All arguments that are given must hold. Files under media roots are not touched. Queued work of deleted items
        counts as skipped.

        Args:
            collection: its name.
            external_ids: of items of the collection.
            item_ids: of items of any collection, or of this one.
            older_than: only items whose last change is so long ago.
            on_progress: called after each batch, which is a transaction, with its number of items.

        Raises:
            RequestRefused: neither a collection nor item ids are given, or there is no such collection.
        """
        return delete_items(
            self.database, collection, external_ids, item_ids, older_than, self._forget_media, on_progress
        )  # fmt: skip

    def delete_orphans(self) -> Deleted:
        """Delete uploaded content that no item has used for a day. Needs the owner's rights."""
        return delete_orphans(self.database, self._forget_media)

    def _forget_media(self, digests: Sequence[bytes]) -> None:
        """Delete content from the media store; where none is set, say what stays there."""
        if self.settings.media_url is None:
            log.warning(
                "media_left", contents=len(digests), first=digests[0].hex(),
                why="they lie in a media store, and SIGHTLINE_MEDIA_URL is not set here",
            )  # fmt: skip
            return
        store = MediaStore(self.settings.media_url)
        for digest in digests:
            store.delete(digest)

    def spaces(self) -> list[Space]:
        """All spaces, by name."""
        with self.database.statement() as connection, connection.cursor(row_factory=class_row(Space)) as cursor:
            return cursor.execute(f"{_SELECT_SPACE} from sightline.space s order by name").fetchall()

    def space(self, name: str = "current") -> Space:
        """The space that a name or alias means."""
        with self.database.statement() as connection, connection.cursor(row_factory=class_row(Space)) as cursor:
            space = cursor.execute(
                f"{_SELECT_SPACE} from sightline.resolve_space(%s) s",
                (name,),
            ).fetchone()
        assert space is not None
        return space

    def encode(
        self,
        *,
        texts: Sequence[str] = (),
        images: Sequence[bytes] = (),
        space: str = "current",
        timeout: float | None = None,
    ) -> tuple[list[list[float]], list[list[str]]]:
        """Encode queries on a worker, now: nothing is stored.

        Returns:
            One vector of unit length for each text, then for each image; and for each what the vector does not show of
            it: the end of a long text, other frames of an animation.

        Raises:
            UsageError: a text for a space of images only.
            CallTimeout: no worker answered in time (SIGHTLINE_CALL_SECONDS).
            CallFailed: an input could not be encoded; the message names it.
            ContractViolated: none or too many inputs, or one of a wrong type.
        """
        from sightline.contracts.encode import EncodeReply, EncodeRequest
        from sightline.contracts.problem import validated

        target = self.space(space)
        check_modalities(target, texts, images)
        inputs = [{"text": text} for text in texts] + [{"image": base64.b64encode(image).decode()} for image in images]
        asked = {"kind": "encode", "space": target.name, "inputs": inputs}
        request = validated(EncodeRequest, asked, "call of encode").model_dump(exclude_none=True)
        seconds = self.settings.call_seconds if timeout is None else timeout
        reply = as_reply(EncodeReply, self.broker.call(f"{target.queue}.interactive", request, seconds))
        return [list(vector) for vector in reply.vectors], [list(notes) for notes in reply.notes]

    def search(
        self,
        *,
        text: str | None = None,
        image: str | os.PathLike[str] | bytes | None = None,
        vector: Sequence[SupportsFloat] | None = None,
        k: int = 10,
        collection: str | None = None,
        where: Mapping[str, Any] | None = None,
        space: str = "current",
        modality: Modality = "image",
        per_group: bool = False,
        hybrid: bool = False,
        lang: str = "en",
        rerank: bool | str = False,
        candidates: int = 100,
        threshold: float | None = None,
        compose: Compose | None = None,
        reference: str | None = None,
        factors: Mapping[str, float] | None = None,
    ) -> Hits:
        """The k stored items nearest to a text, an image (path or bytes), a vector, or an image and a text composed.

        Args:
            text: a query in words; exactly one of text, image and vector is given.
            image: path or bytes of an image file.
            vector: as many numbers as the space has dimensions.
            k: how many hits.
            collection: search in this collection only.
            where: filter on metadata, `{"year": 2024, "price": {"$lt": 10}}`; operators $in $lt $lte $gt $gte $exists.
            space: name or alias of the space.
            modality: what to find, images or texts.
            per_group: the nearest item of each group only: k hits of k groups. A group is what has the same `group_key`
                in one collection; an item without one is a group of its own.
            hybrid: by words too: image vectors, vectors and words of captions, and words of texts, fused by their ranks
                (`sightline.hybrid_search` in SQL). For a text; not by groups.
            lang: language of the text in a hybrid search: English, German (de) and Spanish (es) words are stemmed.
            rerank: put the nearest in the order of a stronger scorer: its name, or True for the worker's default one.
            candidates: how many of the nearest are reranked.
            threshold: leave out what a reranking finds less relevant than this, which may be everything. It needs a
                calibration of the scorer on `collection` (`sightline calibrate relevance`).

            compose: image and text are one query: "sum" of both vectors, for words that add to the image; or "pdv", the
                way from `reference`, a text of the image, to `text`, what is wanted (sightline/compose.py).
            reference: see compose.
            factors: alpha_image, alpha_text and beta of "pdv".

        Raises:
            UsageError: an argument of the wrong type.
            RequestRefused: no such space or collection, wrong dimension, a bad filter.
            CallTimeout: no worker encoded the query in time.
            CallFailed: a worker refused the query, the scorer or the threshold.
        """
        if compose is not None:
            check_search(text, None, k, where)
            composed, told = composed_query(self, compose, image, text, vector, reference, factors, space)
            hits = self.search(
                vector=composed, k=k, collection=collection, where=where, space=space, modality=modality,
                per_group=per_group,
            )  # fmt: skip
            hits.notes += told
            return hits
        if reference is not None or factors is not None:
            raise UsageError("reference and factors are for composed queries: give compose too")
        if rerank:
            hits = self.search(
                text=text, image=image, vector=vector, k=max(k, candidates), collection=collection, where=where,
                space=space, modality=modality, per_group=per_group, hybrid=hybrid, lang=lang,
            )  # fmt: skip
            return reranked(self, text, hits, k, None if rerank is True else rerank, collection, threshold, space)
        if threshold is not None:
            raise UsageError("a threshold is for a scorer's relevance: it needs rerank")
        given = [name for name, value in (("text", text), ("image", image), ("vector", vector)) if value is not None]
        if len(given) != 1:
            raise UsageError(f"search takes exactly one of text, image and vector, not {' and '.join(given) or 'none'}")
        if hybrid and (text is None or per_group):
            raise UsageError("a hybrid search takes a text, and does not group: its hits are not those of one order")
        notes: list[str] = []
        check_search(text, vector, k, where)
        if vector is None:
            texts = [] if text is None else [text]
            images = [] if image is None else [image_bytes_of(image, self.settings)]
            with naming_the_query(image):
                (query, *_), (notes, *_) = self.encode(texts=texts, images=images, space=space)
        else:
            query = [float(x) for x in vector]
        if hybrid and text is not None:
            return hybrid_hits(
                self.database, space, text, query, k=k, collection=collection, where=where, modality=modality,
                lang=lang, notes=notes,
            )  # fmt: skip
        literal = f"[{','.join(map(repr, query))}]"
        return self._hits("nearest", space, literal, k, collection, where, modality, per_group, notes)

    def rerank(
        self,
        query: str,
        candidates: Sequence[RerankCandidate],
        *,
        scorer: str | None = None,
        k: int | None = None,
        collection: str | None = None,
        threshold: float | None = None,
        space: str = "current",
        timeout: float | None = None,
    ) -> Ranking:
        """Put candidates in the order of their relevance for a query, on a worker, now: nothing is stored.

        Args:
            query: in words.
            candidates: at most 1,000: ids of stored items or hits, texts (str), images (bytes or a `Path`).
            scorer: its name, such as "matcher" or "cross-encoder:BAAI/bge-reranker-base"; None is the worker's default.
            k: how many are kept; None keeps all.
            collection: whose calibration makes probabilities of the scores; None leaves them raw.
            threshold: leave out what is less relevant, which may be everything; refused without a calibration.
            space: whose stored vectors `dual-encoder` and `late-interaction` use.
            timeout: seconds; by default SIGHTLINE_RERANK_SECONDS.

        Returns:
            The candidates by their places; those that could not be scored are in its `errors`.

        Raises:
            UsageError: an argument of the wrong type.
            ContractViolated: too many candidates, an empty query, or a value of the wrong type.
            CallTimeout: no worker answered in time.
            CallFailed: a worker refused the query, the scorer or the threshold.
        """
        return rerank(
            self, query, candidates, scorer=scorer, k=k, collection=collection, threshold=threshold, space=space,
            timeout=timeout,
        )  # fmt: skip

    def calibrate_relevance(
        self,
        pairs: Iterable[LabelledPair],
        *,
        collection: str,
        scorer: str | None = None,
        precision: float = 0.9,
        method: Method | None = None,
        held_out: float = 0.3,
        space: str = "current",
        progress: bool = False,
    ) -> CalibrationReport:
        """Fit and store what makes probabilities of a scorer's scores on a collection, and a threshold.

        Args:
            pairs: queries with items of the collection, and whether they fit.
            collection: what the calibration is for.
            scorer: its name; None is the worker's default.
            precision: share of relevant pairs that is wanted above the threshold.
            method: isotonic or temperature; None is isotonic from 200 pairs.
            held_out: share of the queries, by their digests, that the report is on.
            space: whose stored vectors the scorer may use.
            progress: show on stderr how many pairs were scored.

        Raises:
            UsageError: labels that contradict each other, items that are not there, too few queries, or pairs that are
                all relevant.
            CallFailed: a worker refused a query or the scorer.
        """
        from sightline.calibrate import calibrate_relevance

        return calibrate_relevance(
            self, pairs, collection=collection, scorer=scorer, precision=precision, method=method, held_out=held_out,
            space=space, progress=progress,
        )  # fmt: skip

    def similar_to(
        self,
        item_id: int,
        *,
        k: int = 10,
        collection: str | None = None,
        where: Mapping[str, Any] | None = None,
        space: str = "current",
        modality: Modality = "image",
        per_group: bool = False,
    ) -> Hits:
        """The k stored items nearest to a stored one, without it; `per_group` as in `search`.

        The other items of its own group are a group like any other.
        """
        check_search(None, None, k, where)
        return self._hits("similar_to", space, item_id, k, collection, where, modality, per_group)

    def image_bytes(self, item_id: int) -> bytes:
        """The bytes of a stored image file.

        Raises:
            UsageError: there is no such image, or its file is gone.
        """
        with self.database.transaction() as connection:
            row = connection.execute(
                "select i.uri, b.bytes, i.blob_digest "
                "from sightline.item i left join sightline.blob b on b.digest = i.blob_digest "
                "where i.item_id = %s and i.modality = 'image'",
                (item_id,),
            ).fetchone()
        if row is None:
            raise UsageError(f"there is no image {item_id}")
        uri, content, digest = row
        if content is None and digest is not None and self.settings.media_url:
            content = MediaStore(self.settings.media_url).get(digest, self.settings.max_bytes)
        if content is None and digest is not None:
            raise UsageError(
                f"the content of image {item_id} lies in the media store (SIGHTLINE_MEDIA_URL), and is not there"
            )
        if content is None and not uri.startswith("file:///"):
            raise UsageError(f"the content of image {item_id} is not stored here, its source is {uri}")
        return bytes(content) if content is not None else image_bytes_of(path_of_uri(uri), self.settings)

    def _hits(
        self, function: str, space: str, query: str | int, k: int, collection: str | None,
        where: Mapping[str, Any] | None, modality: str, per_group: bool, notes: Iterable[str] = (),
    ) -> Hits:  # fmt: skip
        with self.database.statement() as connection:
            rows = connection.execute(
                "select n.item_id, n.external_id, n.score, n.distance, c.name, i.modality, i.metadata, i.text, i.uri, "
                f"n.group_key, n.status from sightline.{function}(%s, %s, %s, %s, %s, %s, %s) with ordinality n "
                "join sightline.item i on i.item_id = n.item_id "
                "join sightline.collection c on c.collection_id = i.collection_id order by n.ordinality",
                (space, query, k, collection, None if where is None else Jsonb(dict(where)), modality, per_group),
            ).fetchall()
        status: Status = rows[0][-1] if rows else "fewer_exist"
        return Hits((Hit(*row[:-1]) for row in rows), status, notes)


def service_urls(settings: Settings, database_url: str | None, redis_url: str | None) -> tuple[str, str | None]:
    """The DSNs to use: arguments, then settings, then the embedded stack that runs under `settings.home`."""
    database_url = database_url or (settings.database_url.get_secret_value() if settings.database_url else None)
    redis_url = redis_url or (settings.redis_url.get_secret_value() if settings.redis_url else None)
    if database_url is None:
        from sightline.embedded.stack import running_stack

        stack = running_stack(settings.home)
        if stack is None:
            raise ServiceMissing(
                f"no embedded stack runs in {settings.home}: start one with `sightline up`, "
                "or set SIGHTLINE_DATABASE_URL and SIGHTLINE_REDIS_URL"
            )
        database_url, redis_url = stack.database_url, redis_url or stack.redis_url
    return libpq_url(database_url), redis_url
