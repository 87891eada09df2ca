"""`sightline spaces` and `sightline space create|index|alias`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.progress import Progress

from sightline.cli.output import JsonOption, err, out, print_json, print_table
from sightline.client import Sightline
from sightline.errors import UsageError
from sightline.space import IndexStatus, bulk_advice, create_space, drop_indexes, index_space, index_status

space_app = typer.Typer(no_args_is_help=True, help="Create a space, build its indexes, point an alias to it.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(spaces)
    app.add_typer(space_app, name="space")


def spaces(as_json: JsonOption = False) -> None:
    """List the spaces.

    Example: sightline spaces
    """
    with Sightline() as client:
        found = client.spaces()
    if as_json:
        print_json(found)
        return
    print_table(
        ["space", "aliases", "model", "dim", "modalities", "queue"],
        [(s.name, ", ".join(s.aliases), s.model, s.dim, ", ".join(s.modalities), s.queue) for s in found],
        empty="no spaces: sightline space create NAME --model MODEL",
    )


@space_app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Lower case; also names the views NAME_image and NAME_text.")],
    model: Annotated[str, typer.Option(help="Hugging Face id, folder, or 'bundled'.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the repository.")] = None,
    pool: Annotated[str | None, typer.Option(help="Only workers on queue encode.POOL hold the model.")] = None,
    alias: Annotated[str | None, typer.Option(help="Point this alias to the space, for example 'current'.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Create an embedding space for a model. Doing it again with the same model changes nothing.

    Example: sightline space create clip_b32 --model openai/clip-vit-base-patch32
    """
    with Sightline() as client:
        with err.status(f"looking at {model} ..."):
            create_space(client.database, name, model, revision=revision, pool=pool, alias=alias)
        made = client.space(name)
    if as_json:
        print_json(made)
        return
    out.print(
        f"space {made.name}: {made.model}, {made.dim} dimensions, queue {made.queue}, views "
        + ", ".join(f"sightline.{made.name}_{m}" for m in made.modalities)
    )


@space_app.command("alias")
def alias(
    alias: Annotated[str, typer.Argument(help="The alias, for example 'current'.")],
    space: Annotated[str, typer.Argument(help="The space it shall mean.")],
    as_json: JsonOption = False,
) -> None:
    """Point an alias, and its views, to a space.

    Example: sightline space alias current clip_b32
    """
    with Sightline() as client, client.database.transaction() as connection:
        connection.execute("select sightline.alias_space(%s, %s)", (alias, space))
    if as_json:
        print_json({"alias": alias, "space": space})
    else:
        out.print(f"{alias} now means {space}")


@space_app.command("index")
def index(
    name: Annotated[str, typer.Argument(help="Name or alias of the space.")] = "current",
    status: Annotated[bool, typer.Option("--status", help="Only show the indexes.")] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build indexes anew that are there.")] = False,
    drop: Annotated[
        bool, typer.Option("--drop", help="Drop the indexes, before a bulk load: inserting through them is slow.")
    ] = False,
    load: Annotated[
        int | None,
        typer.Option(min=0, help="Only say what storing so many vectors takes, and whether to drop them first."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Build the HNSW index of each modality, after the first bulk load. Reads and writes go on meanwhile.

    Example: sightline space index current
    """
    if status + rebuild + drop + (load is not None) > 1:
        raise UsageError("--status, --rebuild, --drop and --load exclude each other")
    with Sightline() as client:
        if load is not None:
            told = bulk_advice(client.database, name, load)
            if as_json:
                print_json(told)
            else:
                out.print(told.advice, markup=False, soft_wrap=True)
            return
        if drop:
            drop_indexes(client.database, name)
        elif not status:
            with Progress(console=err, transient=True, disable=as_json) as bar:
                tasks = {}

                def show(index: str, share: float) -> None:
                    if index not in tasks:
                        tasks[index] = bar.add_task(f"building {index}", total=1.0)
                    bar.update(tasks[index], completed=share)

                index_space(client.database, name, rebuild=rebuild, on_progress=show)
        found = index_status(client.database, name)
    if as_json:
        print_json(found)
    else:
        print_indexes(found)


def print_indexes(found: list[IndexStatus]) -> None:
    """A table of indexes."""
    print_table(
        ["index", "state", "vectors", "size", "memory a build needs"],
        [(i.index, _state(i), i.rows, _mib(i.index_bytes), _mib(i.build_memory)) for i in found],
        empty="no indexes",
    )
    for index in found:
        if index.build_memory > index.memory_limit:
            err.print(
                f"{index.index}: a build needs {_mib(index.build_memory)} of memory and gets at most "
                f"{_mib(index.memory_limit)}, and goes on many times slower without: alter system set "
                f"maintenance_work_mem = '{index.build_memory // 2**20 + 1}MB'; select pg_reload_conf();",
                soft_wrap=True,
            )


def _state(index: IndexStatus) -> str:
    return index.state if index.progress is None else f"{index.state}, {index.progress:.0%}"


def _mib(size: int | None) -> str:
    return "" if size is None else f"{size / 2**20:,.1f} MiB"
