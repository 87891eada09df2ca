"""`sightline search`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sightline.cli.output import CollectionOption, JsonOption, SpaceOption, err, print_json, print_table
from sightline.client import Sightline
from sightline.errors import UsageError
from sightline.results import Hits


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(search)


def search(
    text: Annotated[str | None, typer.Argument(help="The query in words.")] = None,
    image: Annotated[Path | None, typer.Option(help="The query as an image file.")] = None,
    k: Annotated[int, typer.Option("-k", help="How many hits.")] = 10,
    collection: CollectionOption = None,
    where: Annotated[str | None, typer.Option(help='Filter on metadata, as JSON: {"year": {"$gte": 2020}}')] = None,
    space: SpaceOption = "current",
    modality: Annotated[str, typer.Option(help="What to find: image or text.")] = "image",
    per_group: Annotated[bool, typer.Option("--per-group", help="One hit for each group_key.")] = False,
    hybrid: Annotated[
        bool, typer.Option("--hybrid", help="By the words of captions and texts too, not by vectors alone.")
    ] = False,
    lang: Annotated[str, typer.Option(help="Language of the words, for --hybrid: en, de, es or another.")] = "en",
    rerank: Annotated[
        bool, typer.Option("--rerank", help="Put the nearest in the order of a stronger scorer.")
    ] = False,
    scorer: Annotated[str | None, typer.Option(help="Name of that scorer (default: the worker's).")] = None,
    candidates: Annotated[int, typer.Option(min=1, max=1000, help="How many of the nearest are reranked.")] = 100,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Leave out what is less relevant; needs a calibration.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find the stored items nearest to a text or an image.

    Example: sightline search "a red star" -k 5
    """
    if (text is None) == (image is None):
        raise UsageError("give a text, or --image FILE")
    with Sightline() as client:
        hits = client.search(
            text=text, image=image, k=k, collection=collection, where=_parse_where(where), space=space,
            modality=modality,  # type: ignore[arg-type]  # the database refuses others by name
            per_group=per_group, hybrid=hybrid, lang=lang, candidates=candidates, threshold=threshold,
            rerank=scorer or rerank,
        )  # fmt: skip
    if as_json:
        ranking = None if hits.ranking is None else hits.ranking.to_dict()
        print_json({"status": hits.status, "notes": hits.notes, "hits": list(hits), "ranking": ranking})
        return
    print_hits(hits)


def print_hits(hits: Hits, right: Sequence[bool] = ()) -> None:
    """A table of hits, with a word on what the answer lacks; `right` marks each hit where the truth is known."""
    columns = ["score", "item", "external_id", "content"]
    rows = [(f"{hit.score:.3f}", hit.item_id, hit.external_id, hit.text or summary(hit.metadata)) for hit in hits]
    if any(hit.group_key is not None for hit in hits):
        columns.insert(3, "group")
        rows = [(*row[:3], hit.group_key, row[3]) for row, hit in zip(rows, hits, strict=True)]  # type: ignore[misc]
    if any(hit.caption is not None for hit in hits):
        columns.append("caption")
        rows = [(*row, hit.caption) for row, hit in zip(rows, hits, strict=True)]  # type: ignore[misc]
    if hits.ranking is not None:
        columns.insert(0, "relevance")
        rows = [(f"{hit.relevance:.3f}", *row) for hit, row in zip(hits, rows, strict=True)]  # type: ignore[misc]
    if right:
        columns.insert(0, "right")
        rows = [("yes" if is_right else "no", *row) for is_right, row in zip(right, rows, strict=True)]  # type: ignore[misc]
    print_table(columns, rows, empty="nothing found")
    for note in hits.notes:
        err.print(f"the query: {note}", markup=False, soft_wrap=True)
    if hits.status == "scan_limit":
        err.print("the search gave up (a wide filter far from the query, or huge groups): more hits may exist")


def summary(metadata: dict[str, Any]) -> str:
    """Metadata in one short line; scenes of the bundled world are spelled out."""
    things = metadata.get("things")
    if isinstance(things, list):
        return ", ".join(f"{t['size']} {t['texture']} {t['colour']} {t['shape']}".replace("plain ", "") for t in things)
    line = json.dumps(metadata, ensure_ascii=False) if metadata else ""
    return line if len(line) <= 100 else line[:97] + "..."


def _parse_where(where: str | None) -> dict[str, Any] | None:
    if where is None:
        return None
    try:
        parsed = json.loads(where)
    except ValueError as error:
        raise UsageError(f"--where is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise UsageError(f"--where must be a JSON object, not {where}")
    return parsed
