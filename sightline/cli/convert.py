"""`sightline convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from sightline.cli.output import JsonOption, err, out, print_json
from sightline.model import convert_checkpoint


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(convert)


def convert(
    checkpoint: Annotated[
        str, typer.Argument(help="A folder, a file of weights with its configuration beside it, or a Hugging Face id.")
    ],
    folder: Annotated[Path, typer.Argument(help="The folder to make; it must be empty or not be there.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the repository.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Turn pickled weights into a model folder of safetensors with its passport. Nothing in the pickle is run.

    Example: sightline convert old/pytorch_model.bin models/mine
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=as_json or not err.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}

        def show(what: str, share: float) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=1.0)
            bar.update(tasks[what], completed=share)

        made = convert_checkpoint(checkpoint, folder, revision, show)
    if as_json:
        print_json(made)
        return
    passport = made["passport"]
    formats = ", ".join(f"{count} in {name}" for name, count in sorted(made["tensors"].items()))
    out.print(
        f"{made['folder']}{' held this already' if made['unchanged'] else ''}: {passport['kind']}, {passport['dim']} "
        f"dimensions, tensors: {formats}, {made['bytes'] / 1e6:,.1f} MB"
    )
    if made["skipped"]:
        out.print(f"not weights, and left out: {', '.join(made['skipped'])}")
    out.print(f"next: sightline space create NAME --model {made['folder']}")
