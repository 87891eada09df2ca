"""`sightline jobs`, `failures` and `status`: the ledger's views."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from psycopg.rows import dict_row

from sightline.cli.output import JsonOption, out, print_json, print_records, print_table
from sightline.client import Sightline


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(jobs)
    app.command()(failures)
    app.command()(status)


def _rows(client: Sightline, query: str, *params: object) -> list[dict[str, Any]]:
    with client.database.transaction() as connection, connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, params).fetchall()


def jobs(
    limit: Annotated[int, typer.Option(help="How many, newest first.")] = 20,
    open_only: Annotated[bool, typer.Option("--open", help="Only jobs that are not finished.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List jobs and what became of their items.

    Example: sightline jobs --open
    """
    with Sightline() as client:
        rows = _rows(
            client,
            "select job_id, kind, state, collection, space, submitted, done, failed, skipped, pending, "
            "date_trunc('second', created_at) as created_at, "
            "date_trunc('second', coalesce(finished_at, clock_timestamp()) - created_at)::text as took, error "
            "from sightline.job_progress where not %s or finished_at is null order by job_id desc limit %s",
            open_only,
            limit,
        )
    print_records(rows, as_json=as_json, empty="no jobs")


def failures(
    job: Annotated[int | None, typer.Option(help="Only of this job.")] = None,
    limit: Annotated[int, typer.Option(help="How many, newest first.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List the items that jobs could not do, and why.

    Example: sightline failures --job 7
    """
    with Sightline() as client:
        rows = _rows(
            client,
            "select failure_id, job_id, collection, attempt, external_id, error_class, message "
            "from sightline.failed_items where %s::bigint is null or job_id = %s order by failure_id desc limit %s",
            job,
            job,
            limit,
        )
    print_records(rows, as_json=as_json, empty="no failures")


def status(as_json: JsonOption = False) -> None:
    """Show workers, queues and how many items each space lacks.

    Example: sightline status
    """
    with Sightline() as client:
        workers = _rows(
            client,
            "select name, queues, slots, free_slots, models, "
            "round(extract(epoch from clock_timestamp() - seen_at), 1) as seen_seconds_ago from sightline.worker "
            "where stopped_at is null and seen_at > clock_timestamp() - interval '5 minutes' order by name",
        )
        queues = _rows(client, "select * from sightline.queue_status order by queue")
        spaces = _rows(
            client,
            "select s.name as space, "
            "(select count(*) from sightline.embedding e where e.space_id = s.space_id) as vectors, "
            "(select count(*) from sightline.missing(s.name)) as missing from sightline.space s order by 1",
        )
    if as_json:
        print_json({"workers": workers, "queues": queues, "spaces": spaces})
        return
    print_table(
        ["worker", "queues", "free slots", "seen", "models"],
        [
            (
                w["name"],
                ", ".join(w["queues"]),
                f"{w['free_slots']} of {w['slots']}",
                f"{w['seen_seconds_ago']} s ago",
                _models(w["models"]),
            )
            for w in workers
        ],
        empty="no worker is alive: start one with `sightline worker`",
    )
    out.print()
    print_records(queues, as_json=False, empty="no queue has work or workers")
    out.print()
    print_records(spaces, as_json=False, empty="no spaces: sightline space create")


def _models(models: list[Any]) -> str:
    return ", ".join(
        str(m.get("space", m)) + (f" ({m['error']})" if m.get("error") else "") if isinstance(m, dict) else str(m)
        for m in models
    )
