"""What is made from the contracts: JSON Schemas, the tables in docs/contracts.md, the rows of `job_contract`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from sightline.contracts.call import ErrorReply
from sightline.contracts.fields import Contract
from sightline.contracts.registry import CALLS, JOBS
from sightline.contracts.schema import Schema, schema_of
from sightline.recipes import RECIPES

ROWS = "migrations/sql/0005/91_contracts_rows.sql"
RECIPE_ROWS = "migrations/sql/0005/92_recipes_rows.sql"
"""Of the revision that is being made. Once that is released, what changes goes into files of the next one."""
BEGIN, END = "<!-- made by python -m sightline.contracts: begin -->", "<!-- end -->"


def documents(root: Path) -> dict[Path, str]:
    """Every document by its path below the root of a checkout."""
    made = {
        root / "docs" / "contracts" / f"{name}.json": json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        for name, _, schema in schemas()
    }
    page = root / "docs" / "contracts.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    made[page] = before + BEGIN + "\n\n" + "\n".join(_sections()) + "\n" + END + rest.partition(END)[2]
    made[root / ROWS] = rows()
    made[root / RECIPE_ROWS] = recipe_rows()
    return made


def parts() -> Iterator[tuple[str, type[Contract], bool]]:
    """Each contract by its name (`encode.1.payload`), and whether it is served."""
    for job in JOBS:
        yield f"{job.kind}.{job.version}.payload", job.payload, job.served
        yield f"{job.kind}.{job.version}.result", job.result, job.served
    for call in CALLS:
        yield f"{call.kind}.{call.version}.call", call.request, call.served
        yield f"{call.kind}.{call.version}.reply", call.reply, call.served
    yield "error.1.reply", ErrorReply, True


def schemas() -> Iterator[tuple[str, bool, Schema]]:
    """The schema of each contract, with a name for readers."""
    for name, model, served in parts():
        head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": name}
        yield name, served, {**head, **schema_of(model)}


def rows() -> str:
    """SQL that brings the table `job_contract` up to date."""
    lines = ["-- Made by `python -m sightline.contracts` from the models in sightline/contracts: not to be edited.", ""]
    for job in JOBS:
        schema = json.dumps(schema_of(job.payload), ensure_ascii=False, separators=(",", ":"))
        lines += [
            "insert into sightline.job_contract (kind, version, served, schema)",
            f"values ('{job.kind}', {job.version}, {str(job.served).lower()}, $schema${schema}$schema$)",
            "on conflict (kind, version) do update set served = excluded.served, schema = excluded.schema;",
            "",
        ]
    return "\n".join(lines)


def recipe_rows() -> str:
    """SQL that brings the table `recipe` up to date."""
    lines = [
        "-- Made by `python -m sightline.contracts` from the recipes in sightline/recipes: not to be edited.", "",
        "delete from sightline.recipe;", "",
    ]  # fmt: skip
    for spec in RECIPES:
        schema = json.dumps(spec.schema, ensure_ascii=False, separators=(",", ":"))
        papers, needs, uses = (f"'{{{','.join(map(str, each))}}}'" for each in (spec.papers, spec.needs, spec.uses))
        lines += [
            "insert into sightline.recipe (name, kind, papers, summary, needs, uses, cost, params)",
            f"values ('{spec.name}', '{spec.kind}', {papers}, $text${spec.summary}$text$, {needs}, {uses},",
            f"  $text${spec.cost}$text$,",
            f"  $schema${schema}$schema$);",
            "",
        ]
    return "\n".join(lines)


def _sections() -> Iterator[str]:
    for name, served, schema in schemas():
        yield f"### {name}{'' if served else ' (not served yet)'}"
        yield ""
        yield f"{schema['description']} [Schema](contracts/{name}.json)"
        yield ""
        yield "| field | what it must be | default | meaning |"
        yield "|---|---|---|---|"
        yield from _rows(schema, "")
        yield ""


def _rows(schema: Schema, path: str) -> Iterator[str]:
    for name, field in schema["properties"].items():
        here = f"{path}{name}"
        must = field.get("errorMessage", "must be any JSON").removeprefix("must be ").replace("|", "\\|")
        required = name in schema.get("required", [])
        default = "required" if required else f"`{json.dumps(field['default'])}`" if "default" in field else "optional"
        yield f"| `{here}` | {must} | {default} | {field.get('description', '')} |"
        inner, inner_path = field, f"{here}."
        while "items" in inner:
            inner, inner_path = inner["items"], f"{inner_path[:-1]}[]."
        if "properties" in inner:
            yield from _rows(inner, inner_path)
