"""`sightline rerank` and `sightline calibrate`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sightline.calibrate import read_pairs
from sightline.cli.output import JsonOption, SpaceOption, err, out, print_json, print_table
from sightline.client import Sightline
from sightline.errors import UsageError
from sightline.rerank import RerankCandidate

ScorerOption = Annotated[
    str | None, typer.Option(help="Name of the scorer, such as dual-encoder (default: the worker's).")
]
calibrations = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Fit what makes scores comparable.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(rerank)
    app.add_typer(calibrations, name="calibrate")


@calibrations.callback()
def main() -> None:
    """Fit what makes scores comparable."""


def rerank(
    query: Annotated[str, typer.Argument(help="The query in words.")],
    candidates: Annotated[list[str] | None, typer.Argument(help="Ids of stored items, and image files.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="A text to rank; may be given again.")] = None,
    scorer: ScorerOption = None,
    k: Annotated[int | None, typer.Option("-k", min=1, help="How many are kept (default: all).")] = None,
    collection: Annotated[str | None, typer.Option(help="Whose calibration makes probabilities of scores.")] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Leave out what is less relevant; needs a calibration.")
    ] = None,
    space: SpaceOption = "current",
    as_json: JsonOption = False,
) -> None:
    """Put stored items, image files and texts in the order of a scorer. Exits with 1 if some could not be scored.

    Example: sightline rerank "a red star" 1 2 3 --scorer dual-encoder
    """
    names = [*(candidates or []), *(text or [])]
    given: list[RerankCandidate] = [int(one) if one.isdecimal() else Path(one) for one in candidates or []]
    given += text or []
    if not given:
        raise UsageError("give candidates: ids of stored items, image files, or --text")
    with Sightline() as client:
        ranking = client.rerank(
            query, given, scorer=scorer, k=k, collection=collection, threshold=threshold, space=space
        )
    if as_json:
        print_json(ranking.to_dict())
    else:
        rows = [(rank, f"{one.score:.3f}", names[one.candidate], one.note) for rank, one in enumerate(ranking, start=1)]
        print_table(("rank", "score", "candidate", "note"), rows, empty="nothing is left")
        kind = "raw scores" if ranking.calibration_id is None else f"calibration {ranking.calibration_id}"
        out.print(
            f"{ranking.scorer} (version {ranking.scorer_version}), {kind}, {ranking.dropped} left out, "
            f"{ranking.seconds.get('total', 0):.2f} s",
            highlight=False, markup=False,
        )  # fmt: skip
        for note in ranking.notes:
            err.print(f"the query: {note}", markup=False, soft_wrap=True)
        for error in ranking.errors:
            err.print(f"{names[error.candidate]}: {error.error_class}: {error.message}", markup=False, soft_wrap=True)
    if ranking.errors:
        raise typer.Exit(1)


@calibrations.command()
def relevance(
    pairs: Annotated[Path, typer.Argument(help="CSV file with the columns query, external_id, relevant (1 or 0).")],
    collection: Annotated[str, typer.Option(help="The collection of the items, which the calibration is for.")],
    scorer: ScorerOption = None,
    precision: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of relevant pairs wanted above the threshold.")
    ] = 0.9,
    method: Annotated[
        str | None, typer.Option(help="isotonic or temperature (default: isotonic from 200 pairs).")
    ] = None,
    held_out: Annotated[float, typer.Option(min=0.05, max=0.95, help="Share of the queries to report on.")] = 0.3,
    space: SpaceOption = "current",
    as_json: JsonOption = False,
) -> None:
    """Fit probabilities of relevance for a scorer on a collection, and the threshold for a wanted precision.

    Example: sightline calibrate relevance pairs.csv --collection photos --precision 0.9
    """
    if method not in (None, "isotonic", "temperature"):
        raise UsageError(f"--method must be isotonic or temperature, not {method}")
    labelled = read_pairs(pairs)
    with Sightline() as client:
        report = client.calibrate_relevance(
            labelled, collection=collection, scorer=scorer, precision=precision, space=space,
            method=method, held_out=held_out, progress=not as_json,  # type: ignore[arg-type]  # checked above
        )  # fmt: skip
    if as_json:
        print_json(report)
    else:
        rows = [(name, f"{value:.3f}" if isinstance(value, float) else value) for name, value in asdict(report).items()]
        print_table(("what", "value"), rows, empty="")
    if report.unscored:
        err.print(f"{report.unscored} pairs have no score: {report.why_unscored}", markup=False, soft_wrap=True)
        raise typer.Exit(1)
