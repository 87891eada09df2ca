"""`sightline status`: workers, queues, pauses, rate limits, and what each space lacks."""

from __future__ import annotations

from typing import Annotated, Any

import psycopg
import typer
from psycopg.rows import dict_row

from sightline.cli.output import JsonOption, err, out, print_json, print_records, print_table
from sightline.cli.watch import watch_status
from sightline.client import Sightline
from sightline.errors import UsageError

COUNT_SECONDS = 2
"""How long counting may take for each space; a large one is not counted to the last item by a command that looks."""


LOST_SECONDS = 30
"""After this silence a worker does not count in `queue_status` either."""


BROKEN_WATCHES = ["table is gone", "triggers are missing or disabled: watch it again", "failing"]
"""States of the view `watched_tables` that do not mend themselves."""


_WORKERS = """
select name as worker, array_to_string(queues, ', ') as queues, free_slots || ' of ' || slots as free_slots,
       case when seen_at < clock_timestamp() - interval '30 seconds' then 'lost' else
         round(extract(epoch from clock_timestamp() - seen_at), 1) || ' s ago' end as seen,
       (select string_agg(
          concat(m->>'space', ' (', m->>case m->>'state' when 'ready' then 'detail' else 'state' end, ')'), ', ')
        from jsonb_array_elements(models) m) as serves
from sightline.worker where stopped_at is null and seen_at > clock_timestamp() - interval '5 minutes' order by name
"""
_QUEUES = """
select l.queue, l.workers, l.queued_items as queued, l.running_items as running, q.items_per_second as items_per_s,
       l.cost_seconds as cost_s, l.age_seconds as oldest_s, q.seconds_left, q.done_last_minute as done_1_min,
       q.failed_last_minute as failed_1_min, nullif(q.paused, false) as paused
from sightline.queue_load l left join sightline.queue_status q on q.queue = l.queue order by 1
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(status)


def status(
    watch: Annotated[
        bool, typer.Option("--watch", help="Draw it again every two seconds, until Ctrl-C; into a pipe, one line each.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show workers, queues, pauses, rate limits, how many items each space lacks, and what nobody was told.

    That is: watched tables that are not followed any more, and messages that could not be submitted. Counts that take
    over 2 s are left out.

    Example: sightline status --watch
    """
    if watch and as_json:
        raise UsageError("--watch draws tables: leave out --json, or poll without --watch")
    if watch:
        with Sightline() as client:
            watch_status(lambda: _rows(client, _WORKERS), lambda: _rows(client, _QUEUES))
        return
    with Sightline() as client:
        workers = _rows(
            client,
            "select name, queues, slots, free_slots, models, version, "
            "round(extract(epoch from clock_timestamp() - seen_at), 1) as seen_seconds_ago from sightline.worker "
            "where stopped_at is null and seen_at > clock_timestamp() - interval '5 minutes' order by name",
        )
        queues = _rows(client, "select * from sightline.queue_status order by queue")
        pauses = _rows(
            client,
            "select p.queue, c.name as collection, p.reason, p.paused_by, "
            "date_trunc('second', p.paused_at) as paused_at "
            "from sightline.pause p left join sightline.collection c using (collection_id) order by p.pause_id",
        )
        limits = _rows(client, "select * from sightline.rate_limits order by collection")
        (forgotten,) = _rows(
            client,
            "select coalesce(sum(jobs), 0) as jobs, coalesce(sum(items), 0) as items, max(forgotten_on) as last_on "
            "from sightline.forgotten",
        )
        watches = _rows(
            client, "select source, collection, state, last_error from sightline.watched_tables where state = any (%s)",
            BROKEN_WATCHES,
        )  # fmt: skip
        (refused,) = _rows(
            client, "select count(*) as messages, max(received_at) as last_at from sightline.refused_message"
        )
        spaces = [_space(client, row) for row in _rows(client, "select space_id, name from sightline.space order by 2")]
    if as_json:
        print_json(
            {"workers": workers, "queues": queues, "pauses": pauses, "rate_limits": limits, "spaces": spaces,
             "forgotten": forgotten, "broken_watches": watches, "refused_messages": refused}
        )  # fmt: skip
        return
    _print_workers(workers)
    out.print()
    print_records(queues, as_json=False, empty="no queue has work or workers")
    if pauses:
        out.print()
        print_records(pauses, as_json=False, empty="")
    if limits:
        out.print()
        print_records(limits, as_json=False, empty="")
    out.print()
    print_table(
        ["space", "vectors", "missing"],
        [(s["space"], _about(s["vectors"], exact=s["exact"]), _about(s["missing"], exact=True)) for s in spaces],
        empty="no spaces: sightline space create",
    )
    for table in watches:
        err.print(
            f"table {table['source']} is not followed by collection {table['collection']}: "
            f"{table['last_error'] if table['state'] == 'failing' else table['state']}",
            markup=False, soft_wrap=True,
        )  # fmt: skip
    if refused["messages"]:
        err.print(
            f"{refused['messages']:,} messages could not be submitted, the last at "
            f"{refused['last_at']:%Y-%m-%d %H:%M:%S}: sightline.refused_message says why",
            soft_wrap=True,
        )
    if forgotten["jobs"]:
        out.print(
            f"{forgotten['jobs']:,} finished jobs with {forgotten['items']:,} items were forgotten, the last on "
            f"{forgotten['last_on']} (SIGHTLINE_KEEP_JOBS_DAYS); their vectors stay"
        )


def _print_workers(workers: list[dict[str, Any]]) -> None:
    print_table(
        ["worker", "queues", "free slots", "seen", "serves"],
        [
            (
                worker["name"],
                ", ".join(worker["queues"]),
                f"{worker['free_slots']} of {worker['slots']}" if worker["seen_seconds_ago"] < LOST_SECONDS else "lost",
                f"{worker['seen_seconds_ago']} s ago",
                ", ".join(_model(model) for model in worker["models"]),
            )
            for worker in workers
        ],
        empty="no worker is alive: start one with `sightline worker`",
    )
    for worker in workers:
        for model in worker["models"]:
            if model["state"] == "refused":
                err.print(
                    f"{worker['name']} refuses space {model['space']}: {model['detail']}", markup=False, soft_wrap=True
                )


def _model(model: dict[str, Any]) -> str:
    """A space that a worker serves on a device, or why it does not."""
    state = model["detail"] if model["state"] == "ready" else model["state"]
    return f"{model['space']} ({state})"


def _space(client: Sightline, space: dict[str, Any]) -> dict[str, Any]:
    """Counts of one space; what takes too long is estimated (vectors) or None (missing)."""
    vectors = _count(
        client, "select count(*) from sightline.embedding where space_id = %s and slot = 0", space["space_id"]
    )
    exact = vectors is not None
    if vectors is None:
        partition = f"sightline.embedding_s{space['space_id']}"
        vectors = _rows(client, "select reltuples::bigint as n from pg_class where oid = to_regclass(%s)", partition)[
            0
        ]["n"]
    missing = _count(client, "select count(*) from sightline.missing(%s)", space["name"])
    return {"space": space["name"], "vectors": vectors, "missing": missing, "exact": exact}


def _count(client: Sightline, query: str, param: object) -> int | None:
    with client.database.transaction() as connection:
        connection.execute(f"set local statement_timeout = '{COUNT_SECONDS}s'")
        try:
            with connection.transaction():
                row = connection.execute(query, (param,)).fetchone()
        except psycopg.errors.QueryCanceled:
            return None
    return None if row is None else int(row[0])


def _about(count: int | None, *, exact: bool) -> str:
    if count is None:
        return f"not counted in {COUNT_SECONDS} s"
    return f"{count:,}" if exact else f"about {count:,}"


def _rows(client: Sightline, query: str, *params: object) -> list[dict[str, Any]]:
    with client.database.transaction() as connection, connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, params).fetchall()
