"""What watching a table costs the statements that write it, and what following its marks costs. No worker and no model are needed.

    python -m benchmarks.watch [--rows 10000] [--rounds 10] [--json FILE]

Two tables of the same rows, one of them watched; each statement is timed on both in alternating rounds, on a server that syncs its commits.

    update content   every row's text changes: each is compared and marked
    update other     another column changes: each is compared, none is marked
    delete, insert   each row is marked
    drain            marks become items and a job, in milliseconds for each 1,000 rows
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console
from rich.table import Table

from sightline.embedded.stack import EmbeddedStack
from sightline.migrate import migrate

STATEMENTS = {
    "update content": "update {table} set name = name || 'x'",
    "update other": "update {table} set price = price + 1",
    "delete": "delete from {table}",
    "insert": "insert into {table} select n, repeat('some words of a product ', 4) || n, 1 from generate_series(1, {rows}) n",
}


def _milliseconds(connection: psycopg.Connection, statement: str) -> float:
    began = time.perf_counter()
    connection.execute(statement)
    return 1000 * (time.perf_counter() - began)


def measure(connection: psycopg.Connection, rows: int, rounds: int) -> dict[str, Any]:
    """Median milliseconds of each statement without and with watch, and of the drain for 1,000 rows."""
    for table in ("plain", "watched"):
        connection.execute(f"create table {table} (id bigint primary key, name text not null, price numeric not null)")
        connection.execute(STATEMENTS["insert"].format(table=table, rows=rows))
    connection.execute("select sightline.watch('watched', 'id', 'name', 'watched')")
    drains = [_drain(connection, rows)]  # the rows that are there
    taken: dict[str, dict[str, list[float]]] = {name: {"plain": [], "watched": []} for name in STATEMENTS}
    for number in range(rounds):
        for name, statement in STATEMENTS.items():
            order = ("plain", "watched") if number % 2 else ("watched", "plain")
            for table in order:
                taken[name][table].append(_milliseconds(connection, statement.format(table=table, rows=rows)))
            if name == "update content" and number == 0:
                drains.append(_drain(connection, rows))
        connection.execute("delete from sightline.watch_mark")
        for table in ("plain", "watched", "sightline.watch_mark"):
            connection.execute(f"vacuum {table}")
    result: dict[str, Any] = {
        name: {table: round(statistics.median(times), 1) for table, times in tables.items()}
        for name, tables in taken.items()
    }
    for name, tables in taken.items():
        result[name]["ratio"] = round(statistics.median(
            watched / plain for plain, watched in zip(tables["plain"], tables["watched"], strict=True)), 2)  # fmt: skip
    return result | {"drain of 1,000 rows": round(statistics.median(drains), 1)}


def _drain(connection: psycopg.Connection, rows: int) -> float:
    began = time.perf_counter()
    while connection.execute("select sightline.drain_watch()").fetchone() != (0,):
        pass
    return 1000 * (time.perf_counter() - began) / (rows / 1000)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sightline-bench-") as folder:
        Path(folder).chmod(0o755)
        with EmbeddedStack(Path(folder) / "home") as stack:
            migrate(stack.database_url)
            with psycopg.connect(stack.database_url, autocommit=True) as connection:
                connection.execute(
                    "select sightline.create_space('toy', 'm', 2), sightline.alias_space('current', 'toy')"
                )
                result = measure(connection, arguments.rows, arguments.rounds)
    table = Table(
        "statement", "plain ms", "watched ms", "ratio", title=f"{arguments.rows:,} rows, {arguments.rounds} rounds"
    )
    for name in STATEMENTS:
        row = result[name]
        table.add_row(name, str(row["plain"]), str(row["watched"]), str(row["ratio"]))
    table.add_row("drain of 1,000 rows", "", str(result["drain of 1,000 rows"]), "")
    Console().print(table)
    if arguments.json:
        about = {
            "rows": arguments.rows,
            "rounds": arguments.rounds,
            "machine": platform.machine(),
            "cores": os.cpu_count(),
        }
        arguments.json.write_text(json.dumps(about | result, indent=1) + "\n")


if __name__ == "__main__":
    main()
