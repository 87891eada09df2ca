"""`sightline retry`, `dismiss`, `cancel`, `seal`, `pause`, `resume`, `rate-limit` and `reconcile`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from sightline.cli.output import (
    MAX_ID,
    ClassFilter,
    CollectionOption,
    JobFilter,
    JsonOption,
    SpaceOption,
    err,
    out,
    print_json,
)
from sightline.client import Sightline
from sightline.control import FailureFilter
from sightline.errors import UsageError

IdFilter = Annotated[
    list[int] | None,
    typer.Option("--id", min=1, max=MAX_ID, help="Only this failure (its failure_id); may be repeated."),
]
AllFailures = Annotated[bool, typer.Option("--all", help="Every failure that is neither retried nor dismissed.")]
QueueOption = Annotated[str | None, typer.Option("--queue", help="A queue: encode, or encode.POOL.")]
OneCollection = Annotated[str | None, typer.Option("--collection", help="A collection.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (retry, dismiss, cancel, seal, pause, resume, rate_limit, reconcile):
        app.command()(command)


def retry(
    job: JobFilter = None,
    collection: CollectionOption = None,
    error_class: ClassFilter = None,
    failure_id: IdFilter = None,
    everything: AllFailures = False,
    as_json: JsonOption = False,
) -> None:
    """Do failed items again, in a new job for each job that they failed in. Exits with 1 when some cannot be.

    Example: sightline retry --class WorkerLost
    """
    which = _which(job, collection, error_class, failure_id, everything=everything)
    with Sightline() as client:
        made = client.retry(**asdict(which))
    left_open = sum(each.left_open for each in made)
    if as_json:
        print_json(made)
    else:
        for each in made:
            if each.new_job_id is not None:
                out.print(f"job {each.new_job_id} does {each.items:,} failed items of job {each.retry_of} again")
        if not made:
            out.print("no open failure matches")
    if left_open:
        err.print(
            f"{left_open:,} failures stay open: nothing of these items is stored, for they could not be read when they "
            "were submitted; mend the files and ingest them again, then dismiss the failures",
            soft_wrap=True,
        )
        raise typer.Exit(1)


def dismiss(
    job: JobFilter = None,
    collection: CollectionOption = None,
    error_class: ClassFilter = None,
    failure_id: IdFilter = None,
    everything: AllFailures = False,
    as_json: JsonOption = False,
) -> None:
    """Settle failures that nobody will mend: they leave the list of failures, and stay counted in their jobs.

    Example: sightline dismiss --job 7
    """
    which = _which(job, collection, error_class, failure_id, everything=everything)
    with Sightline() as client:
        count = client.dismiss(**asdict(which))
    if as_json:
        print_json({"dismissed": count})
    else:
        out.print(f"{count:,} failures dismissed" if count else "no open failure matches")


def cancel(
    job: Annotated[int, typer.Argument(min=1, max=MAX_ID, help="The number of the job.")],
    as_json: JsonOption = False,
) -> None:
    """Cancel a job: what is queued never starts, what runs stops at the next batch, what is done stays.

    Example: sightline cancel 7
    """
    with Sightline() as client:
        state = client.job(job).cancel()
        now = client.job(job).progress()
    if as_json:
        print_json(now)
    elif state == "cancelling":
        out.print(f"job {job} is being cancelled: {now.pending:,} items in workers' hands stop at the next batch")
    elif state == "cancelled":
        out.print(f"job {job} cancelled: {now.done:,} items were done before, {now.cancelled:,} were not")
    else:
        out.print(f"job {job} was {state} already: there is nothing to cancel")


def seal(
    job: Annotated[int, typer.Argument(min=1, max=MAX_ID, help="The number of the job.")],
    force: Annotated[bool, typer.Option("--force", help="Even if its submitter is alive.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Close a job whose submitter died before it was through: no more items come, and what was submitted is done.

    Example: sightline seal 7
    """
    with Sightline() as client:
        was_open = client.job(job).seal(force=force)
        now = client.job(job).progress()
    if as_json:
        print_json(now)
    elif was_open:
        out.print(f"job {job} takes no more items: {now.submitted:,} were submitted, {now.pending:,} are pending")
    else:
        out.print(f"job {job} was sealed already")


def pause(
    queue: QueueOption = None,
    collection: OneCollection = None,
    reason: Annotated[str | None, typer.Option(help="Why, for whoever looks at `sightline status`.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Start nothing more of a queue or a collection until it is resumed; what runs is finished.

    Example: sightline pause --queue encode --reason "new driver"
    """
    name = _one(queue, collection)
    with Sightline() as client:
        fresh = client.pause(queue=queue, collection=collection, reason=reason)
    if as_json:
        print_json({"paused": name, "changed": fresh})
    else:
        out.print(f"{name} is paused" if fresh else f"{name} was paused already")


def resume(queue: QueueOption = None, collection: OneCollection = None, as_json: JsonOption = False) -> None:
    """Let a paused queue or collection go on where it was.

    Example: sightline resume --queue encode
    """
    name = _one(queue, collection)
    with Sightline() as client:
        was_paused = client.resume(queue=queue, collection=collection)
    if as_json:
        print_json({"resumed": name, "changed": was_paused})
    else:
        out.print(f"{name} goes on" if was_paused else f"{name} was not paused")


def rate_limit(
    collection: Annotated[str, typer.Argument(help="The collection.")],
    per_second: Annotated[
        float | None, typer.Option(min=1e-6, max=1e6, help="Items that may start in a second, on average.")
    ] = None,
    lift: Annotated[bool, typer.Option("--lift", help="Lift the limit.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Let at most so many items of a collection start in a second; `status` shows the limits. What runs is finished.

    Example: sightline rate-limit shop --per-second 20
    """
    if (per_second is None) != lift:
        raise UsageError("give --per-second or --lift, one of them")
    with Sightline() as client:
        before = client.rate_limit(collection, per_second)
    if as_json:
        print_json({"collection": collection, "items_per_second": per_second, "before": before})
    elif per_second is not None:
        out.print(f"collection {collection} starts at most {per_second:g} items a second", soft_wrap=True)
    elif before is None:
        out.print(f"collection {collection} had no limit", soft_wrap=True)
    else:
        out.print(f"collection {collection} has no limit any more; it was {before:g} items a second", soft_wrap=True)


def reconcile(space: SpaceOption = "current", collection: CollectionOption = None, as_json: JsonOption = False) -> None:
    """Enqueue the items that a space lacks (the view `missing_items`), and nothing else: a job for each collection.

    Example: sightline reconcile
    """
    with Sightline() as client:
        found = client.reconcile(space, collection=collection)
    if as_json:
        print_json(found)
        return
    for each in found:
        what = f"{each.items:,} items of {each.collection}, {each.reason}"
        out.print(f"job {each.job_id} does {what}" if each.job_id else f"nothing to enqueue for {what}", soft_wrap=True)
    if not found:
        out.print("nothing is missing")


def _which(
    job: int | None, collection: str | None, error_class: str | None, failure_ids: list[int] | None, *, everything: bool
) -> FailureFilter:
    which = FailureFilter(job, collection, error_class, failure_ids or None, everything)
    if (which == FailureFilter(everything=everything)) != everything:
        raise UsageError("say which failures: --job, --collection, --class or --id; or --all alone")
    return which


def _one(queue: str | None, collection: str | None) -> str:
    if (queue is None) == (collection is None):
        raise UsageError("give --queue or --collection, one of them")
    return f"queue {queue}" if queue is not None else f"collection {collection}"
