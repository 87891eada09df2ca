"""`sightline ingest`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sightline.cli.output import JsonOption, SpaceOption, configure_logging, err, out, print_json
from sightline.client import Sightline
from sightline.errors import PolicyRefused, UsageError
from sightline.item import Ingestible, Item
from sightline.job import Job, JobProgress
from sightline.plan import FEW, IngestPlan
from sightline.prune import Pruned
from sightline.settings import Settings
from sightline.sources import scheme_of, shown, uri_problem
from sightline.space import bulk_advice

_DONE = {"encode": "encoded", "caption": "captioned", "rerank": "reranked", "context": "done"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(ingest)


def ingest(
    paths: Annotated[
        list[str] | None,
        typer.Argument(help="Image files or folders, links (https://...), objects or folders (s3://bucket/photos/)."),
    ] = None,
    jsonl: Annotated[
        Path | None,
        typer.Option(
            help="Items as JSON lines ('-': stdin), each with path, uri or text, and external_id, metadata, group_key."
        ),
    ] = None,
    collection: Annotated[str, typer.Option(help="Made when it does not exist.")] = "default",
    space: SpaceOption = "current",
    root: Annotated[Path | None, typer.Option(help="Name files relative to this folder.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait until every item is encoded.")] = True,
    prune: Annotated[
        bool, typer.Option("--prune", help="Then delete the items of files that are no longer in the folders.")
    ] = False,
    prune_all: Annotated[
        bool, typer.Option("--prune-all", help="As --prune, also where more than half of a folder's items are gone.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done, and how long it would take.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Store images and texts, and encode them. Running it again skips what did not change.

    Example: sightline ingest ~/photos --collection photos --prune
    """
    settings = Settings()
    configure_logging(settings.log_level)
    if bool(paths) == (jsonl is not None):
        raise UsageError("give paths of files or folders, or --jsonl")
    if jsonl is not None and jsonl != Path("-") and not jsonl.is_file():
        raise UsageError(f"there is no file {jsonl}")
    sources = [_source(path) for path in paths or []]
    items: Iterable[Ingestible] = sources or read_jsonl(jsonl or Path("-"))
    local = [source for source in sources if isinstance(source, Path)]
    folders = [path for path in local if path.is_dir()] if prune or prune_all else []
    if (prune or prune_all) and not folders:
        raise UsageError("--prune is for folders: it deletes the items of files that are no longer there")
    visible = not as_json
    with Sightline(settings=settings) as client:
        if dry_run:
            plan = client.plan_ingest(items, collection=collection, space=space, root=root, progress=visible)
            gone = client.prune(
                folders, collection=collection, root=root, everything=prune_all, dry_run=True, progress=visible
            )
            print_plan(plan, gone, as_json=as_json)
            return
        job = client.ingest(items, collection=collection, space=space, root=root, progress=visible)
        advise(client, space, job, shown=visible)
        ended = job.wait(progress=visible) if wait else job.progress()
        pruned: list[Pruned] = []
        refusal: PolicyRefused | None = None
        try:
            pruned = client.prune(folders, collection=collection, root=root, everything=prune_all, progress=visible)
        except PolicyRefused as error:
            refusal = error
        report(job, ended, pruned, as_json=as_json, exit_on_failure=refusal is None)
        if refusal is not None:
            raise refusal


def _source(given: str) -> Path | str:
    """An argument as a path that is there, or as a URI. Raises UsageError."""
    scheme = scheme_of(given)
    if scheme == "file":
        raise UsageError(f"{given}: give a file as a path")
    if scheme is not None:
        if (problem := uri_problem(given)) is not None:
            raise UsageError(f"{shown(given)}: {problem}")
        return given
    if not Path(given).exists():
        raise UsageError(f"there is no file or folder {given}")
    return Path(given)


def print_plan(plan: IngestPlan, gone: Sequence[Pruned], *, as_json: bool) -> None:
    """Say what an ingest would do."""
    if as_json:
        print_json({**asdict(plan), "prune": gone})
        return
    out.print(
        f"{plan.new:,} new, {plan.changed:,} changed, {plan.unchanged:,} unchanged ({plan.updated:,} of them with "
        f"other metadata or source), {plan.unreadable:,} unreadable"
        + (f", {plan.duplicates:,} given twice" if plan.duplicates else "")
    )
    out.print(f"upload: at most {plan.upload_files:,} files, {plan.upload_bytes / 1e6:,.1f} MB")
    out.print(f"database: about {plan.gigabytes:,.3f} GB more")
    rate = plan.items_per_second
    if not plan.encode:
        out.print("encode: nothing")
    elif rate is None or plan.hours is None:
        out.print(f"encode: {plan.encode:,} items; the space has encoded nothing yet, so there is no rate to go by")
    else:
        out.print(f"encode: {plan.encode:,} items, about {duration(plan.hours)} at {rate:,.1f}/s as of late")
    if plan.index_advice is not None:
        out.print(f"index: {plan.index_advice}", soft_wrap=True)
    for found in gone:
        out.print(f"prune: {found.gone:,} of {found.stored:,} items of {found.folder} are gone")
        if found.problem is not None:
            err.print(f"  would be refused: {found.problem}", markup=False, soft_wrap=True)
    for problem in plan.problems:
        err.print(f"  {problem['external_id']}: {problem['class']}: {problem['message']}", markup=False, soft_wrap=True)


def advise(client: Sightline, space: str, job: Job, *, shown: bool) -> None:
    """Say what the indexes of the space will cost a large job, as long as they can still be dropped."""
    pending = job.progress().pending
    advice = bulk_advice(client.database, space, pending)
    if shown and advice.indexes and pending > FEW:
        err.print(f"index: {advice.advice}", markup=False, soft_wrap=True)


def duration(hours: float) -> str:
    """Hours in the unit that people use."""
    seconds = hours * 3600
    return f"{seconds:,.0f} s" if seconds < 100 else f"{seconds / 60:,.0f} min" if hours < 2 else f"{hours:,.1f} h"


def report(
    job: Job,
    ended: JobProgress,
    pruned: Sequence[Pruned] = (),
    *,
    as_json: bool = False,
    exit_on_failure: bool = True,
) -> None:
    """Say what became of the items; exit with 1 when some failed, or when the job broke off."""
    if as_json:
        notes, noted = job.notes()
        print_json({**asdict(ended), "pruned": pruned, "noted": noted, "notes": notes})
    else:
        out.print(
            f"job {job.job_id} {ended.state}: {ended.submitted:,} submitted, {ended.done:,} {_DONE[ended.kind]}, "
            f"{ended.skipped:,} skipped ({ended.unchanged:,} unchanged), {ended.failed:,} failed"
            + (f", {ended.pending:,} pending" if ended.pending else "")
        )
        for failure in job.failures(limit=5):
            err.print(
                f"  {failure.external_id}: {failure.error_class}: {failure.message}", markup=False, soft_wrap=True
            )
        if ended.failed > 5:
            err.print(f"  ... all of them: sightline failures --job {job.job_id}")
        notes, noted = job.notes(limit=5) if ended.kind == "encode" else ([], 0)
        for note in notes:
            err.print(f"  {note.external_id}: {note.note}", markup=False, soft_wrap=True)
        if noted > 5:
            err.print(f"  ... {noted:,} items have such a remark: select * from sightline.noted_items")
        for one in pruned:
            out.print(f"pruned {one.deleted:,} of {one.stored:,} items of {one.folder}")
    if ended.error is not None:
        err.print(f"job {job.job_id} is not whole: {ended.error}; run it again to resume", markup=False, soft_wrap=True)
    if (ended.failed or ended.error is not None) and exit_on_failure:
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
