"""The part of the client that looks after what is stored and queued."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

import structlog

from sightline import control
from sightline.connection import Connection
from sightline.control import FailureFilter, Missing, Retry
from sightline.deletion import Deleted, count_items, delete_items, delete_orphans

log = structlog.get_logger(__name__)


class Upkeep(Connection):
    """Failures, pauses, limits and deletion; see `Sightline`."""

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
        if self.media is None:
            log.warning(
                "media_left", contents=len(digests), digests=[digest.hex() for digest in digests],
                why="they lie in a media store, and SIGHTLINE_MEDIA_URL is not set here",
            )  # fmt: skip
            return
        for digest in digests:
            self.media.delete(digest)
