"""What watching a table costs the statements that write it, and what following its marks costs. No worker and no model are needed.

    python -m benchmarks.watch [--rows 10000] [--rounds 10] [--json FILE]

Two tables of the same rows, one of them watched; each statement runs on both in alternating rounds. Counted is the processor time of the server
process that runs it, in ticks of 10 ms: other work on the machine, and disks, stay out of it.

    update content   every row's text changes: each is compared and marked
    update other     another column changes: each is compared, none is marked
    delete, insert   each row is marked
    drain            marks become items and a job: for each 1,000 rows
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
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


def _processor_ms(connection: psycopg.Connection) -> float:
    """Milliseconds of processor time that the connection's server process has used."""
    fields = Path(f"/proc/{connection.info.backend_pid}/stat").read_text().rpartition(")")[2].split()
    return 1000 * (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _milliseconds(connection: psycopg.Connection, statement: str) -> float:
    began = _processor_ms(connection)
    connection.execute(statement)
    return _processor_ms(connection) - began


def measure(connection: psycopg.Connection, rows: int, rounds: int) -> dict[str, Any]:
    """Mean milliseconds of each statement without and with watch, and of the drain for 1,000 rows."""
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
        name: {table: round(statistics.mean(times), 1) for table, times in tables.items()}
        for name, tables in taken.items()
    }
    for times in result.values():
        times["more"] = round(1000 * (times["watched"] - times["plain"]) / rows, 1)
    return result | {"drain of 1,000 rows": round(statistics.mean(drains), 1)}


def _drain(connection: psycopg.Connection, rows: int) -> float:
    began = _processor_ms(connection)
    while connection.execute("select sightline.drain_watch()").fetchone() != (0,):
        pass
    return (_processor_ms(connection) - began) / (rows / 1000)


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
        "statement",
        "plain ms",
        "watched ms",
        "more, µs a row",
        title=f"{arguments.rows:,} rows, {arguments.rounds} rounds",
    )
    for name in STATEMENTS:
        row = result[name]
        table.add_row(name, str(row["plain"]), str(row["watched"]), str(row["more"]))
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
