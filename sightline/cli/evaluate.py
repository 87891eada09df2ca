"""`sightline eval`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from sightline.cli.output import JsonOption, err, out, print_json, print_table
from sightline.model import evaluate_scenes

commands = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Measure what models are worth.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(commands, name="eval")


@commands.callback()
def main() -> None:
    """Measure what models are worth."""


@commands.command()
def scenes(
    seed: Annotated[int, typer.Option(min=0, max=999, help="Which scenes: each seed has its own.")] = 0,
    count: Annotated[int, typer.Option(min=1, max=100_000, help="How many scenes.")] = 1000,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if a target is missed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure the bundled models on rendered scenes that nobody trained on, against their targets.

    Example: sightline eval scenes --count 100 --seed 7
    """
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=as_json or not err.is_terminal) as bar:
        task = bar.add_task("loading", total=1.0)
        found = evaluate_scenes(seed, count, lambda what, share: bar.update(task, description=what, completed=share))
    if as_json:
        print_json(found)
    else:
        rows = [
            (name, f"{one['value']:.3f}", f"{one['low']:.3f}-{one['high']:.3f}", one["n"], _target(one))
            for name, one in found["figures"].items()
        ]
        out.print(found["where"])
        print_table(("what", "value", "95 % interval", "queries", "target"), rows, empty="nothing was measured")
        for name in found["absent"]:
            out.print(f"{name} is not in this checkout, so its figures are lacking")
        for name in found["missed"]:
            out.print(f"missed: {name}")
    if check and found["missed"]:
        raise typer.Exit(1)


def _target(one: dict[str, float | None]) -> str | None:
    value, target = one["value"], one["target"]
    if target is None or value is None:
        return None
    return f">= {target:.3f} {'met' if value >= target else 'missed'}"
