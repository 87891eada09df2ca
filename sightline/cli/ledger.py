"""`sightline jobs` and `failures`: the ledger's views."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from psycopg.rows import dict_row

from sightline.cli.output import ClassFilter, CollectionOption, JobFilter, JsonOption, err, out, print_records
from sightline.cli.watch import watch_ledger
from sightline.client import Sightline
from sightline.errors import UsageError
from sightline.pulse import SILENT_SECONDS

_JOBS = """
select job_id, kind, case when paused then 'paused' else state end as state, collection, space, submitted, done, failed,
       skipped, cancelled, pending, items_per_second as items_per_s, seconds_left, oldest_seconds as oldest_s,
       case when silent_seconds > %(silent)s then 'silent ' || round(silent_seconds) || ' s'
            when silent_seconds is not null then 'open' end as submitter,
       date_trunc('second', created_at)::text as created_at,
       date_trunc('second', coalesce(finished_at, clock_timestamp()) - created_at)::text as took, retry_of, error
from sightline.job_progress
where not %(open)s or finished_at is null order by job_id desc limit %(limit)s
"""

_QUEUES = """
select queue, workers, queued_items as queued, running_items as running, done_last_minute as done_1_min,
       failed_last_minute as failed_1_min, items_per_second as items_per_s, seconds_left, oldest_seconds as oldest_s,
       nullif(paused, false) as paused
from sightline.queue_status order by queue
"""

_FAILURES = """
select f.failure_id, f.job_id, c.name as collection, f.attempt,
       case when f.retried_by is not null then 'retried in job ' || f.retried_by
            when f.dismissed_at is not null then 'dismissed' else 'open' end as outcome,
       f.external_id, f.error_class, f.message
from sightline.failure f join sightline.job j using (job_id) left join sightline.collection c using (collection_id)
where (%(all)s or f.retried_by is null and f.dismissed_at is null)
  and (%(job)s::bigint is null or f.job_id = %(job)s)
  and (%(collection)s::text is null or c.name = %(collection)s)
  and (%(class)s::text is null or f.error_class = %(class)s)
order by f.failure_id desc limit %(limit)s
"""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(jobs)
    app.command()(failures)


def jobs(
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
    open_only: Annotated[bool, typer.Option("--open", help="Only jobs that are not finished.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Draw the table again each second, until Ctrl-C.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List jobs and what became of their items, with rate (of the last minute) and time left.

    `submitter` says of a job that takes more items whether its submitter gives signs of life. --watch shows the queues
    too; where the output is no terminal it prints a line for each job that has moved.

    Example: sightline jobs --open
    """
    if watch and as_json:
        raise UsageError("--watch draws a table: leave out --json, or poll without --watch")
    params = {"open": open_only, "limit": limit, "silent": SILENT_SECONDS}
    with Sightline() as client:
        if watch:
            watch_ledger(lambda: _rows(client, _JOBS, params), lambda: _rows(client, _QUEUES, {}))
            return
        rows = _rows(client, _JOBS, params)
    print_records(rows, as_json=as_json, empty="no jobs")
    for row in rows:
        if (row["submitter"] or "").startswith("silent") and not as_json:
            err.print(
                f"job {row['job_id']} waits for a submitter that is {row['submitter']}; it closes by itself after 10 "
                f"minutes, or at once: sightline seal {row['job_id']}",
                soft_wrap=True, highlight=False,
            )  # fmt: skip


def failures(
    job: JobFilter = None,
    collection: CollectionOption = None,
    error_class: ClassFilter = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 50,
    everything: Annotated[
        bool, typer.Option("--all", help="Those too that were retried or dismissed, with what became of them.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List the items that jobs could not do, and why; settled ones are left out.

    Example: sightline failures --job 7
    """
    with Sightline() as client:
        params = {"job": job, "collection": collection, "class": error_class, "all": everything, "limit": limit}
        rows = _rows(client, _FAILURES, params)
    print_records(rows, as_json=as_json, empty="no failures" if everything else "no open failures")
    if rows and not as_json and not everything:
        out.print(
            "\ndo them again: sightline retry --all; settle them: sightline dismiss --all; "
            "some of them: with --job, --class or --id instead of --all",
            highlight=False,
        )


def _rows(client: Sightline, query: str, params: dict[str, Any]) -> list[dict[str, Any]]:
    with client.database.transaction() as connection, connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, params).fetchall()
