"""`sightline eval`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from sightline.cli.output import JsonOption, err, out, print_json, print_table
from sightline.model import evaluate_captions, evaluate_retrieval, evaluate_scenes

_Evaluate = Callable[[Callable[[str, float], None]], dict[str, Any]]
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
    _tell(lambda on_progress: evaluate_scenes(seed, count, on_progress), check=check, as_json=as_json)


@commands.command()
def retrieval(
    seed: Annotated[int, typer.Option(min=0, max=999, help="The first seed: each has scenes of its own.")] = 0,
    count: Annotated[int, typer.Option(min=10, max=10_000, help="How many scenes of each seed.")] = 100,
    seeds: Annotated[int, typer.Option(min=1, max=100, help="How many seeds.")] = 3,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if a target is missed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure reranking and composed queries on rendered scenes that nobody trained on, against their baselines.

    Example: sightline eval retrieval --count 20 --seeds 1
    """
    _tell(lambda on_progress: evaluate_retrieval(seed, count, seeds, on_progress), check=check, as_json=as_json)


def _run(evaluate: _Evaluate, *, as_json: bool) -> dict[str, Any]:
    """The figures of an evaluation, which shows how far it is."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=as_json or not err.is_terminal) as bar:
        task = bar.add_task("loading", total=1.0)
        return evaluate(lambda what, share: bar.update(task, description=what, completed=share))


def _tell(evaluate: _Evaluate, *, check: bool, as_json: bool) -> None:
    """Run an evaluation, and print its figures."""
    found = _run(evaluate, as_json=as_json)
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


@commands.command()
def captions(
    seed: Annotated[int, typer.Option(min=0, max=999, help="The first seed: each has scenes of its own.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, max=20, help="How many seeds.")] = 3,
    count: Annotated[int, typer.Option(min=20, max=10_000, help="How many scenes of each seed.")] = 300,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1 if a control wins or reading finds no word.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure what each caption recipe is worth on held-out scenes, beside the plain captioner.

    By exact parse against the truth, and by a second dual encoder that rewards no recipe.

    Example: sightline eval captions --seeds 1 --count 20
    """
    found = _run(lambda on_progress: evaluate_captions(seed, seeds, count, on_progress), as_json=as_json)
    if as_json:
        print_json(found)
    else:
        out.print(found["where"])
        rows = [caption_row(name, one) for name, one in found["rows"].items() if "named" in one["figures"]]
        print_table(("captions", *CAPTION_FIGURES.values(), "against plain"), rows, empty="nothing was measured")
        for name, one in found["rows"].items():
            for what, value in one["figures"].items():
                if what not in CAPTION_FIGURES:
                    out.print(f"{name}: {what.replace('_', ' ')}: {_figure(value)}", soft_wrap=True)
            if one["failed"]:
                out.print(f"{name}: {one['failed']} images failed")
        for name, why in found["absent"].items():
            out.print(f"not measured here: {name}: {why}", soft_wrap=True)
        for name in found["missed"]:
            out.print(f"missed: {name}")
    if check and found["missed"]:
        raise typer.Exit(1)


CAPTION_FIGURES = {
    "named": "true attributes named", "false": "false in a caption", "false_share": "share false",
    "found": "found by full caption", "tells_apart": "caption finds image", "words": "words",
}  # fmt: skip


def caption_row(name: str, one: dict[str, Any]) -> tuple[str, ...]:
    """One line of the table: figures with their intervals, and whether the captions gain on plain ones."""
    figures = one["figures"]
    if one["gain"] is None:
        return (name, *(_figure(figures[what]) for what in CAPTION_FIGURES), "the baseline")
    named, found, false = (one["differs"][what] for what in ("named", "found", "false_share"))
    if one["gain"]:
        verdict = "gain"
    elif named["low"] > 0 and found["low"] > 0:
        verdict = f"mixed: more is named and found, {figures['false_share']['value']:.1%} of it false"
    else:
        lacks = [
            ("names no more", named["low"] <= 0),
            ("found no oftener", found["low"] <= 0),
            ("more is false", false["low"] > 0),
        ]
        verdict = "no gain: " + ", ".join(why for why, is_so in lacks if is_so)
    return (name, *(_figure(figures[what]) for what in CAPTION_FIGURES), verdict)


def _figure(one: dict[str, float]) -> str:
    return f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"


def _target(one: dict[str, float | None]) -> str | None:
    value, target = one["value"], one["target"]
    if target is None or value is None:
        return None
    return f">= {target:.3f} {'met' if value >= target else 'missed'}"
