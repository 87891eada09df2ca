"""`sightline caption`, `recipes` and `select-best`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from sightline.cli.ingest import report
from sightline.cli.output import (
    CollectionOption,
    JsonOption,
    SpaceOption,
    configure_logging,
    err,
    out,
    print_json,
    print_table,
)
from sightline.client import Sightline
from sightline.contracts.problem import shown
from sightline.errors import UsageError
from sightline.recipes import RECIPES, recipe_named
from sightline.recipes.recipe import RecipeSpec
from sightline.settings import Settings


class Rule(StrEnum):
    """Of `select_best`."""

    match = "match"
    alignment = "alignment"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(caption)
    app.command()(recipes)
    app.command("select-best")(select_best)


def caption(
    collection: Annotated[str, typer.Option(help="Every image of it is captioned.")],
    recipe: Annotated[str, typer.Option(help="How they are written; `sightline recipes` lists them.")] = "describe",
    params: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE of the recipe, such as gamma=2; may be repeated.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The captioner; without it the one of the workers.")] = None,
    lang: Annotated[str, typer.Option(help="Language of the captions.")] = "en",
    space: SpaceOption = "current",
    embed: Annotated[bool, typer.Option("--embed", help="Encode the captions as well.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until every image is captioned.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Write captions for the images of a collection; they become rows of the view `captions`.

    Example: sightline caption --collection photos --recipe guided --params gamma=2
    """
    settings = Settings()
    configure_logging(settings.log_level)
    with Sightline(settings=settings) as client:
        job = client.caption(
            collection, recipe=recipe, params=parameters(params or []), model=model, lang=lang, space=space, embed=embed
        )
        ended = job.wait(progress=not as_json) if wait else job.progress()
        followed = [each.wait(progress=not as_json) for each in job.followers()] if wait and embed else []
        report(job, ended, as_json=as_json, exit_on_failure=False)
    lost = [each for each in followed if each.failed or each.error is not None]
    for each in lost:
        err.print(
            f"job {each.job_id}: {each.failed:,} captions were not encoded: sightline failures --job {each.job_id}"
        )
    if ended.failed or ended.error is not None or lost:
        raise typer.Exit(1)


def parameters(given: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE as parameters: a value that is JSON counts as such, any other is a text. Raises UsageError."""
    found: dict[str, Any] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not name or not equals:
            raise UsageError(f"--params {each!r}: expected NAME=VALUE, such as gamma=2")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def recipes(
    name: Annotated[str | None, typer.Argument(help="A recipe, to see its parameters.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the recipes, or the parameters of one.

    Example: sightline recipes guided
    """
    if name is None:
        if as_json:
            print_json([_record(spec) for spec in RECIPES])
            return
        rows = [(s.name, s.kind, ", ".join(map(str, s.papers)), ", ".join(s.needs), s.cost, s.summary) for s in RECIPES]
        print_table(("recipe", "kind", "papers", "needs", "cost of an image", "what it does"), rows, empty="none")
        return
    spec = recipe_named(name)
    if spec is None:
        raise UsageError(f"there is no recipe {name!r}; there are {', '.join(sorted(each.name for each in RECIPES))}")
    if as_json:
        print_json(_record(spec))
        return
    out.print(f"{spec.name}: {spec.summary}", soft_wrap=True, markup=False, highlight=False)
    fields = spec.schema["properties"]
    rows2 = [(key, shown(f.get("default")), f["errorMessage"], f.get("description", "")) for key, f in fields.items()]
    print_table(("parameter", "default", "value", "meaning"), rows2, empty="it takes no parameters")


def _record(spec: RecipeSpec) -> dict[str, Any]:
    return {
        "name": spec.name, "kind": spec.kind, "papers": list(spec.papers), "summary": spec.summary,
        "needs": list(spec.needs), "uses": list(spec.uses), "cost": spec.cost, "params": spec.schema,
    }  # fmt: skip


def select_best(
    rule: Annotated[
        Rule, typer.Option(help="match: the likeliest by the matcher; alignment: by its vector.")
    ] = Rule.match,
    collection: CollectionOption = None,
    recipe: Annotated[list[str] | None, typer.Option(help="Choose among these recipes; may be repeated.")] = None,
    lang: Annotated[str | None, typer.Option(help="Choose among captions of this language.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Mark one caption of each image as selected. The user's own captions are in no choice, and stay as they are.

    Example: sightline select-best --collection photos --rule match
    """
    with Sightline() as client:
        images = client.select_best(rule.value, collection=collection, recipes=recipe, lang=lang)
    if as_json:
        print_json({"images": images, "rule": rule.value})
    else:
        out.print(f"{images:,} images have a selected caption")
