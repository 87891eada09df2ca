"""What the commands share: options, tables, JSON and logging."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import structlog
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

MAX_ID = 2**63 - 1

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
SpaceOption = Annotated[str, typer.Option(help="Name or alias of the space.")]
CollectionOption = Annotated[str | None, typer.Option(help="Only this collection.")]
JobFilter = Annotated[int | None, typer.Option("--job", min=1, max=MAX_ID, help="Only failures of this job.")]
ClassFilter = Annotated[str | None, typer.Option("--class", help="Only failures of this class, such as WorkerLost.")]

# A pipe has no width to wrap to.
out = Console(width=None if sys.stdout.isatty() else 200)
err = Console(stderr=True)

_WIDEST = 100_000
"""Columns of a table, at most."""


def print_json(value: Any) -> None:
    """Print a value as JSON; dataclasses become objects, times ISO strings."""
    typer.echo(json.dumps(value, default=_plain, ensure_ascii=False, indent=2))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return str(value)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str) -> None:
    """Print rows as a table, or a sentence when there are none."""
    show(make_table(columns, rows, empty=empty))


def show(table: Table | str) -> None:
    """Print a table at the width that it needs: a narrow terminal wraps its lines, and nothing is cut for a pipe."""
    lines = io.StringIO()
    Console(file=lines, width=_WIDEST).print(table)
    for line in lines.getvalue().splitlines():
        typer.echo(line.rstrip())


def make_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str) -> Table | str:
    """A table of rows, or a sentence when there are none."""
    texts = [[_text(cell) for cell in row] for row in rows]
    if not texts:
        return empty
    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, column in enumerate(columns):
        # Only the last column is shown whole, however long it is.
        longest = max([len(column), *(len(row[number]) for row in texts)])
        last = number == len(columns) - 1
        table.add_column(column, no_wrap=True, overflow="ellipsis", width=longest if last else min(longest, 60))
    for row in texts:
        table.add_row(*map(escape, row))
    return table


def _text(cell: Any) -> str:
    if cell is None or cell is False:
        return ""
    if cell is True:
        return "yes"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def records_table(records: Sequence[Mapping[str, Any]], *, empty: str) -> Table | str:
    """A table of the rows of one view. Columns that are empty in all of them are left out."""
    columns = [name for name in (records[0] if records else {}) if any(row[name] is not None for row in records)]
    return make_table(columns, [[record[column] for column in columns] for record in records], empty=empty)


def print_records(records: Sequence[Mapping[str, Any]], *, as_json: bool, empty: str) -> None:
    """Print rows of one view, as JSON or as a table of their columns."""
    if as_json:
        print_json(records)
    else:
        show(records_table(records, empty=empty))


def configure_logging(level: str) -> None:
    """Log lines of sightline and of libraries to stderr."""
    logging.basicConfig(level=level.upper(), format="%(levelname)s %(name)s: %(message)s")
    for chatty in ("alembic", "psycopg.pool"):  # every migration, every retry of a connection that is reported anyway
        logging.getLogger(chatty).setLevel(logging.ERROR)
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            structlog.dev.ConsoleRenderer(colors=err.is_terminal),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
