"""`sightline ingest`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from sightline.cli.output import JsonOption, SpaceOption, configure_logging, err, out, print_json
from sightline.client import Sightline
from sightline.errors import UsageError
from sightline.item import Ingestible, Item
from sightline.job import Job, JobProgress
from sightline.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(ingest)


def ingest(
    paths: Annotated[list[Path] | None, typer.Argument(help="Image files or folders.")] = None,
    jsonl: Annotated[
        Path | None,
        typer.Option(
            help="Items as JSON lines ('-': stdin), each with path or text, and external_id, metadata, group_key."
        ),
    ] = None,
    collection: Annotated[str, typer.Option(help="Made when it does not exist.")] = "default",
    space: SpaceOption = "current",
    root: Annotated[Path | None, typer.Option(help="Name files relative to this folder.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait until every item is encoded.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Store images and texts, and encode them. Running it again skips what did not change.

    Example: sightline ingest ~/photos --collection photos
    """
    settings = Settings()
    configure_logging(settings.log_level)
    if bool(paths) == (jsonl is not None):
        raise UsageError("give paths of files or folders, or --jsonl")
    if jsonl is not None and jsonl != Path("-") and not jsonl.is_file():
        raise UsageError(f"there is no file {jsonl}")
    for path in paths or []:
        if not path.exists():
            raise UsageError(f"there is no file or folder {path}")
    items: Iterable[Ingestible] = paths or read_jsonl(jsonl or Path("-"))
    with Sightline(settings=settings) as client:
        job = client.ingest(items, collection=collection, space=space, root=root, progress=not as_json)
        ended = job.wait(progress=not as_json) if wait else job.progress()
        report(job, ended, as_json=as_json)


def report(job: Job, ended: JobProgress, *, as_json: bool = False, exit_on_failure: bool = True) -> None:
    """Say what became of the items; exit with 1 when some failed."""
    if as_json:
        print_json(ended)
    else:
        out.print(
            f"job {job.job_id} {ended.state}: {ended.submitted:,} submitted, {ended.done:,} encoded, "
            f"{ended.skipped:,} skipped ({ended.unchanged:,} unchanged), {ended.failed:,} failed"
            + (f", {ended.pending:,} pending" if ended.pending else "")
        )
        for failure in job.failures(limit=5):
            err.print(
                f"  {failure.external_id}: {failure.error_class}: {failure.message}", markup=False, soft_wrap=True
            )
        if ended.failed > 5:
            err.print(f"  ... all of them: sightline failures --job {job.job_id}")
    if ended.failed and exit_on_failure:
        raise typer.Exit(1)


def read_jsonl(file: Path) -> Iterator[Item]:
    """Items of a file of JSON lines, one by one; `-` is stdin. A line that is no item ends the stream.

    Raises:
        UsageError: the file cannot be read, or a line is no item; the message names the line.
    """
    if file == Path("-"):
        yield from _items(sys.stdin, Path.cwd())
        return
    try:
        with file.open(encoding="utf-8-sig") as lines:
            yield from _items(lines, file.parent)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not UTF-8: {error}") from error


def _items(lines: Iterable[str], folder: Path) -> Iterator[Item]:
    """Items of JSON lines; relative paths are relative to the file's folder."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            if "path" in fields:
                fields.setdefault("external_id", fields["path"])
                fields["path"] = folder / fields["path"]
            yield Item(**fields)
        except (ValueError, TypeError, UsageError) as error:
            if isinstance(error, UnicodeDecodeError):
                raise
            raise UsageError(f"line {number} is no item: {error}; what came before it is kept") from error
