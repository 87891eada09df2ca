"""The client: ingest, search, wait. Needs neither torch nor Celery."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from psycopg.types.json import Jsonb

from sightline.connection import Lane
from sightline.database import LentConnection
from sightline.errors import UsageError
from sightline.ingest import Ingest, tuple_cursor
from sightline.item import Ingestible
from sightline.job import Job
from sightline.plan import IngestPlan, plan_ingest
from sightline.prune import Pruned, prune
from sightline.transfers import Transfers
from sightline.upkeep import Upkeep


class Sightline(Transfers, Upkeep):
    """A connection to sightline. Safe in threads; use as a context manager, or call `close()`.

    Args:
        database_url: Postgres DSN; by default SIGHTLINE_DATABASE_URL, else the embedded stack that `sightline up` runs.
        redis_url: Redis DSN; by default SIGHTLINE_REDIS_URL, else that of the embedded stack.
        settings: all settings; by default from the environment.

    Raises:
        ServiceMissing: neither is set and no embedded stack runs.
    """

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
