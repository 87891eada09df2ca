"""`sightline space import` and `sightline export`: vectors from and to files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sightline.cli.output import CollectionOption, JsonOption, configure_logging, err, out, print_json
from sightline.cli.spaces import space_app
from sightline.client import Sightline
from sightline.errors import UsageError
from sightline.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the commands."""
    space_app.command("import")(import_)
    app.command()(export)


def import_(
    space: Annotated[str, typer.Argument(help="Name or alias of a space of the model that computed the vectors.")],
    vectors: Annotated[
        list[Path], typer.Option(help="A .npy file (float16 or float32), a parquet file, or a folder; may be repeated.")
    ],
    ids: Annotated[
        list[Path] | None,
        typer.Option(
            help="Ids or rows: .txt, .json, .jsonl, .npy, .parquet or a folder; as many files as vectors, or one."
        ),
    ] = None,
    collection: Annotated[
        str | None, typer.Option(help="Made when it does not exist; default: as exported, else 'default'.")
    ] = None,
    modality: Annotated[str, typer.Option(help="image or text.")] = "image",
    id_column: Annotated[str | None, typer.Option(help="Column of the external_id.")] = None,
    source_column: Annotated[str | None, typer.Option(help="Column of the path or URI of the content.")] = None,
    text_column: Annotated[str | None, typer.Option(help="Column of the text, for --modality text.")] = None,
    vector_column: Annotated[str, typer.Option(help="Column of the vectors in parquet files.")] = "vector",
    root: Annotated[Path | None, typer.Option(help="Paths are relative to this folder, and named so.")] = None,
    passport: Annotated[
        Path | None, typer.Option(help="Of the vectors' model; default: passport.json beside the vectors.")
    ] = None,
    assume_passport: Annotated[
        bool, typer.Option("--assume-passport", help="There is no passport, but the vectors are of the space's model.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Store vectors that were computed elsewhere. Running it again writes only what differs.

    Example: sightline space import clip_b32 --vectors img_emb --ids metadata --id-column key --assume-passport
    """
    settings = Settings()
    configure_logging(settings.log_level)
    if modality not in {"image", "text"}:
        raise UsageError(f"--modality must be image or text, not {modality!r}")
    with Sightline(settings=settings) as client:
        report = client.import_vectors(
            space, list(vectors), list(ids or []), collection=collection,
            modality="text" if modality == "text" else "image", id_column=id_column, source_column=source_column,
            text_column=text_column, vector_column=vector_column, root=root, passport=passport,
            assume_passport=assume_passport, progress=not as_json,
        )  # fmt: skip
        failures = client.job(report.job_id).failures(limit=5) if report.job_id is not None else []
    if as_json:
        print_json(report)
    else:
        out.print(
            f"{report.rows:,} rows: {report.stored:,} vectors stored, {report.replaced:,} replaced, "
            f"{report.unchanged:,} unchanged, {report.failed:,} failed; {report.new_items:,} new items; "
            f"{report.rows_per_second:,.0f} rows/s"
        )
        if report.sample is not None:
            lowest = "" if report.sample.lowest is None else f", lowest cosine {report.sample.lowest:.4f}"
            out.print(f"compared with the model: {report.sample.compared} vectors{lowest}")
            if report.sample.problem is not None:
                err.print(f"  not all: {report.sample.problem}", markup=False, soft_wrap=True)
        for failure in failures:
            err.print(
                f"  {failure.external_id}: {failure.error_class}: {failure.message}", markup=False, soft_wrap=True
            )
        if report.failed > len(failures):
            err.print(f"  ... all of them: sightline failures --job {report.job_id}")
    if report.failed:
        raise typer.Exit(1)


def export(
    space: Annotated[str, typer.Argument(help="Name or alias of the space.")],
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    file_format: Annotated[str, typer.Option("--format", help="npy or parquet.")] = "npy",
    collection: CollectionOption = None,
    modality: Annotated[str | None, typer.Option(help="image or text; default: both.")] = None,
    unnormalised: Annotated[
        bool, typer.Option("--unnormalised", help="float32 with the norm that they had, not float16 of length 1.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the vectors of a space with their ids and metadata, and the space's passport, into a folder.

    Example: sightline export current vectors --format npy
    """
    if file_format not in {"npy", "parquet"}:
        raise UsageError(f"--format must be npy or parquet, not {file_format!r}")
    if modality not in {None, "image", "text"}:
        raise UsageError(f"--modality must be image or text, not {modality!r}")
    with Sightline() as client:
        report = client.export_vectors(
            space, folder, file_format="parquet" if file_format == "parquet" else "npy", collection=collection,
            modality=None if modality is None else "text" if modality == "text" else "image",
            unnormalised=unnormalised, progress=not as_json,
        )  # fmt: skip
    if as_json:
        print_json(report)
        return
    out.print(
        f"{report.rows:,} vectors in {report.files:,} files of {report.folder}, {report.rows_per_second:,.0f} rows/s"
        + (f"; {report.stale:,} stale ones left out" if report.stale else "")
    )
