"""What the ledger costs: many small jobs from several processes, all accounted for, and how large its tables get.

    python -m benchmarks.ledger [--jobs 100000] [--clients 8] [--rounds 3] [--json FILE]
    python -m benchmarks.ledger --short                 # 2,000 jobs, in about a minute

A real stack with one worker and the bundled text encoder. The queue is paused while the clients submit jobs of one item each, so that all
of them are queued; then it goes on until every job is over, and the checker of the drills looks for what is lost, doubled or miscounted.

    submit        jobs per second of all clients together, each job its own transaction
    publish       milliseconds for each chunk that the dispatcher takes with the whole backlog waiting (in a transaction that is rolled back)
    idle look     milliseconds of a look that finds nothing to publish, of a sweep, both with the whole backlog there
    work          jobs per second from the first claim to the last end
    churn         rounds of a tenth of the jobs each, finished and forgotten: sizes of tables and indexes in MB after each
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

from sightline.client import Sightline
from sightline.services import running_services
from sightline.settings import Settings
from tests.drills.invariants import census, settled_breaches

TABLES = ("job", "chunk", "failure", "turn", "worker", "leader")


def submit_all(database_url: str, client: int, jobs: int, name: str) -> None:
    """One client process: every job is one item and one transaction."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        for n in range(jobs):
            text = f"a red star and {n} blue circles, {client}"
            connection.execute(
                "select sightline.submit('encode', '{}', %s, jsonb_build_array(jsonb_build_object('text', %s::text, 'external_id', %s::text)))",
                (f"{name} {client}", text, str(n)),
            )


def clients_submit(database_url: str, clients: int, jobs: int, name: str) -> float:
    """Seconds until `clients` processes have submitted `jobs` jobs together."""
    spawn = multiprocessing.get_context("spawn")
    began = time.perf_counter()
    processes = [
        spawn.Process(target=submit_all, args=(database_url, n, jobs // clients, name)) for n in range(clients)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return time.perf_counter() - began


def sizes(connection: psycopg.Connection) -> dict[str, dict[str, float]]:
    """MB of each table of the ledger and of each of its indexes."""
    rows = connection.execute(
        "select t.relname, coalesce(i.relname, t.relname), pg_relation_size(coalesce(i.oid, t.oid)) / 1048576.0, t.n "
        "from (select c.oid, c.relname, array_position(%s, c.relname::text) as n from pg_class c "
        "      where c.relnamespace = 'sightline'::regnamespace and c.relname = any(%s)) t "
        "cross join lateral (select null::oid union all select x.indexrelid from pg_index x where x.indrelid = t.oid) o(oid) "
        "left join pg_class i on i.oid = o.oid order by t.n, 2",
        (list(TABLES), list(TABLES)),
    ).fetchall()
    found: dict[str, dict[str, float]] = {}
    for table, name, size, _ in rows:
        found.setdefault(table, {})[name] = round(float(size), 2)
    return found


def timed(connection: psycopg.Connection, statement: str, rounds: int = 15) -> tuple[float, list[Any]]:
    """Median milliseconds of a statement that is rolled back each time, and its last rows."""
    taken, rows = [], []
    for _ in range(rounds):
        connection.execute("begin")
        began = time.perf_counter()
        rows = connection.execute(statement).fetchall()
        taken.append(1000 * (time.perf_counter() - began))
        connection.execute("rollback")
    return statistics.median(taken[2:]), rows


def dispatch_cost(connection: psycopg.Connection) -> dict[str, float]:
    """The dispatcher's own statements with the whole backlog waiting."""
    pause = "delete from sightline.pause"
    connection.execute("begin")
    connection.execute(pause)
    costs: list[float] = []
    published = 0
    for _ in range(20):
        connection.execute("savepoint before")
        began = time.perf_counter()
        rows = connection.execute("select chunk_ids from sightline.take_unpublished('1 hour', 4)").fetchall()
        costs.append(1000 * (time.perf_counter() - began))
        published = sum(len(ids) for (ids,) in rows)
        connection.execute("rollback to savepoint before")
    connection.execute("rollback")
    idle, nothing = timed(connection, "select * from sightline.take_unpublished('1 hour', 4)")
    assert nothing == []  # the queue is paused
    sweep, _ = timed(connection, "select sightline.sweep('1 hour', 3)", 7)
    return {
        "chunks_published_at_once": published,
        "publish_ms_per_chunk": statistics.median(costs[2:]) / max(published, 1),
        "idle_look_ms": idle,
        "sweep_ms": sweep,
    }


def until_over(client: Sightline, connection: psycopg.Connection) -> float:
    """Resume and wait until no job is open; seconds."""
    began = time.perf_counter()
    client.resume(queue="encode")
    while connection.execute("select exists (select from sightline.job where finished_at is null)").fetchone() == (
        True,
    ):
        time.sleep(0.25)
    return time.perf_counter() - began


def run(arguments: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    with running_services(settings) as services:
        with Sightline(services.database_url, services.redis_url, settings=settings) as client:
            with psycopg.connect(services.database_url, autocommit=True) as connection:
                figures: dict[str, Any] = {
                    "machine": platform.machine(),
                    "jobs": arguments.jobs,
                    "clients": arguments.clients,
                }
                figures["sizes_before"] = sizes(connection)
                client.pause(queue="encode")
                seconds = clients_submit(services.database_url, arguments.clients, arguments.jobs, "main")
                figures["submitted_per_s"] = arguments.jobs / seconds
                connection.execute("analyze sightline.job, sightline.chunk")
                figures |= dispatch_cost(connection)
                seconds = until_over(client, connection)
                figures["worked_per_s"] = arguments.jobs / seconds
                time.sleep(2)  # the messages of the last chunks are acknowledged
                found = census(connection)
                figures["accounted_for"] = vars(found)
                figures["breaches"] = settled_breaches(connection, client.broker.redis, settings.key_prefix)
                assert found.items_in == found.stored == arguments.jobs, figures
                assert (found.lost, found.duplicates, figures["breaches"]) == (0, 0, []), figures
                figures["sizes_after_work"] = sizes(connection)
                for _ in range(arguments.rounds):
                    while connection.execute("select sightline.forget_jobs('0 s', 1000)").fetchone() != (0,):
                        pass
                    client.pause(queue="encode")
                    clients_submit(
                        services.database_url, arguments.clients, arguments.jobs // 10, f"churn {time.time()}"
                    )
                    until_over(client, connection)
                    connection.execute(
                        "vacuum sightline.job, sightline.chunk"
                    )  # as autovacuum does, without its minute of sleep
                    figures.setdefault("sizes_after_churn", []).append(sizes(connection))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.short:
        arguments.jobs, arguments.rounds = 2_000, 1
    with tempfile.TemporaryDirectory(prefix="sightline-bench-") as folder:
        Path(folder).chmod(0o755)
        figures = run(arguments, Settings(home=Path(folder) / "home", log_level="warning"))
    text = json.dumps(figures, indent=2, default=lambda value: round(float(value), 4))
    print(text)
    if arguments.json:
        arguments.json.write_text(text)


if __name__ == "__main__":
    main()
