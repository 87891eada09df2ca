"""`python -m models`: what the CLI of sightline asks of the models, as a process of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from models.errors import ModelError, UnsafeCheckpoint

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

# Exit codes of the whole project.
_CONFIGURATION = 3  # configuration or service missing
_POLICY = 4  # refused by policy


@app.callback()
def main() -> None:
    """Models of sightline, without the rest of it."""


@app.command()
def passport(
    model: Annotated[str, typer.Option(help="A hub id, a folder, or 'bundled'.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub repository.")] = None,
    device: Annotated[str, typer.Option(help="Where it would run: auto, cpu, cuda or cuda:1.")] = "auto",
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; by default as the device.")] = None,
) -> None:
    """Print the passport of a model's embedding space as JSON. Reads the weights, but does not load them."""
    try:
        from models.device import pick_device, pick_dtype
        from models.pipeline import open_pipeline

        number_format = pick_dtype(dtype, pick_device(device))
        found = open_pipeline(model, revision).passport(number_format)
    except ModelError as error:
        raise _failed(error) from error
    typer.echo(json.dumps(found.to_dict(), ensure_ascii=False))


@app.command()
def machine(
    spaces: Annotated[
        str, typer.Option(help='Models to look for, as JSON: [["id or folder", "revision or null"]].')
    ] = "[]",
) -> None:
    """Print what this machine offers to models, as JSON: torch, devices and their memory, and which models lack."""
    from models.machine import describe_machine

    typer.echo(json.dumps(describe_machine(json.loads(spaces)), ensure_ascii=False))


@app.command()
def convert(
    checkpoint: Annotated[str, typer.Argument(help="A folder, a file with its configuration beside it, or a hub id.")],
    out: Annotated[Path, typer.Argument(help="The folder to make.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub repository.")] = None,
) -> None:
    """Turn pickled weights into a folder of safetensors. Prints JSON lines: progress, and last what was made."""
    try:
        from models.convert import convert as run

        def tell(what: str, share: float) -> None:
            typer.echo(json.dumps({"doing": what, "share": share}))

        typer.echo(json.dumps(run(checkpoint, out, revision, tell).to_dict(), ensure_ascii=False))
    except ModelError as error:
        raise _failed(error) from error


@app.command()
def eval_scenes(
    seed: Annotated[int, typer.Option(help="Which scenes: each seed has its own.")] = 0,
    count: Annotated[int, typer.Option(help="How many scenes.")] = 1000,
    split: Annotated[str, typer.Option(help="test, or validation while a model is made.")] = "test",
    captioner: Annotated[str, typer.Option(help="A folder that training wrote, or 'bundled'.")] = "bundled",
) -> None:
    """Measure the shipped models on scenes nobody trained on. Prints JSON lines: progress, and last the figures."""
    import transformers

    from models.scenes.card import WeightsRefused
    from models.scenes.yardstick import report

    transformers.utils.logging.disable_progress_bar()
    try:

        def tell(what: str, share: float) -> None:
            typer.echo(json.dumps({"doing": what, "share": share}))

        found = report(seed, count, split=split, blip=captioner, tell=tell)
    except ModelError as error:
        raise _failed(error) from error
    except (WeightsRefused, ValueError) as error:
        typer.echo(f"models: {error}", err=True)
        raise typer.Exit(_CONFIGURATION) from error
    typer.echo(json.dumps(found.to_json()))


@app.command()
def eval_captions(
    arms: Annotated[str, typer.Option(help="Recipes to compare, as JSON; `sightline eval captions` writes it.")],
    seed: Annotated[int, typer.Option(help="The first seed: each has scenes of its own.")] = 0,
    seeds: Annotated[int, typer.Option(help="How many seeds.")] = 3,
    count: Annotated[int, typer.Option(help="How many scenes of each.")] = 300,
    split: Annotated[str, typer.Option(help="test, or validation while parameters are chosen.")] = "test",
) -> None:
    """Measure captions of held-out scenes, recipe by recipe. Prints JSON lines: progress, and last the table."""
    import transformers

    from models.scenes.card import WeightsRefused
    from models.scenes.evaluate_captions import Arm, evaluate_captions

    transformers.utils.logging.disable_progress_bar()
    try:

        def tell(what: str, share: float) -> None:
            typer.echo(json.dumps({"doing": what, "share": share}))

        given = [Arm(**one) for one in json.loads(arms)]
        found = evaluate_captions(given, seeds=range(seed, seed + seeds), count=count, split=split, tell=tell)
    except ModelError as error:
        raise _failed(error) from error
    except (WeightsRefused, ValueError) as error:
        typer.echo(f"models: {error}", err=True)
        raise typer.Exit(_CONFIGURATION) from error
    typer.echo(json.dumps(found))


@app.command()
def eval_retrieval(
    seed: Annotated[int, typer.Option(help="The first seed: each has scenes of its own.")] = 0,
    count: Annotated[int, typer.Option(help="How many scenes of each seed.")] = 200,
    seeds: Annotated[int, typer.Option(help="How many seeds.")] = 3,
) -> None:
    """Measure reranking and composed queries on scenes nobody trained on. Prints JSON lines, last the figures."""
    import transformers

    from models.scenes.card import WeightsRefused
    from models.scenes.retrieval import report

    transformers.utils.logging.disable_progress_bar()
    try:
        found = report(
            seed, count, seeds,
            tell=lambda what, share: typer.echo(json.dumps({"doing": what, "share": share})),
        )  # fmt: skip
    except ModelError as error:
        raise _failed(error) from error
    except (WeightsRefused, ValueError) as error:
        typer.echo(f"models: {error}", err=True)
        raise typer.Exit(_CONFIGURATION) from error
    typer.echo(json.dumps(found.to_json()))


def _failed(error: ModelError) -> typer.Exit:
    typer.echo(f"models: {error}", err=True)
    return typer.Exit(_POLICY if isinstance(error, UnsafeCheckpoint) else _CONFIGURATION)


if __name__ == "__main__":
    app(prog_name="python -m models")
