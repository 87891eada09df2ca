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
    target: Annotated[
        list[str],
        typer.Argument(metavar="[SPACE] FOLDER", help="A space for its vectors; a new folder, alone for captions."),
    ],
    file_format: Annotated[
        str | None, typer.Option("--format", help="Vectors: npy or parquet. Captions: webdataset or parquet.")
    ] = None,
    collection: CollectionOption = None,
    modality: Annotated[str | None, typer.Option(help="Of vectors: image or text; default: both.")] = None,
    unnormalised: Annotated[
        bool, typer.Option("--unnormalised", help="float32 with the norm that they had, not float16 of length 1.")
    ] = False,
    keep_share: Annotated[
        float | None, typer.Option(help="Of pairs with a score this share only, the best first; above 0, at most 1.")
    ] = None,
    keep_by: Annotated[str, typer.Option(help="The score of --keep-share: match or alignment.")] = "match",
    balance: Annotated[
        Path | None, typer.Option(help="Balance the captions by these words and phrases, one a line.")
    ] = None,
    per_entry: Annotated[int, typer.Option(min=1, help="About how many pairs a common one of them keeps.")] = 20_000,
    shard_pairs: Annotated[int, typer.Option(min=1, help="Pairs in one file.")] = 1000,
    seed: Annotated[str, typer.Option(help="Of what --keep-share and --balance leave to chance.")] = "0",
    as_json: JsonOption = False,
) -> None:
    """Write the vectors of a space, or images with their captions to train on, into a folder.

    With a space: its vectors with their ids and metadata, and its passport. Without one: each image with the caption to
    train on and all that is known of its captions, in shards; the same command goes on where it was interrupted.

    Example: sightline export training --format webdataset --collection shop
    """
    if len(target) > 2:
        raise UsageError(f"give a space and a folder, or a folder alone, not {len(target)} words")
    if len(target) == 2:
        if keep_share is not None or balance is not None:
            raise UsageError("--keep-share and --balance are of captions: give a folder and no space")
        _export_vectors(target[0], Path(target[1]), file_format or "npy", collection, modality, unnormalised, as_json)
        return
    if modality is not None or unnormalised:
        raise UsageError("--modality and --unnormalised are of vectors: name their space before the folder")
    if file_format == "npy":
        raise UsageError("--format npy is of vectors: name their space before the folder")
    with Sightline() as client:
        report = client.export_pairs(
            target[0], file_format=file_format or "webdataset",  # type: ignore[arg-type]  # refused by name
            collection=collection, keep_share=keep_share,
            keep_by=keep_by,  # type: ignore[arg-type]
            balance=balance, per_entry=per_entry, shard_pairs=shard_pairs, seed=seed, progress=not as_json,
        )  # fmt: skip
    if as_json:
        print_json(report)
    else:
        left_out = {
            "without a caption": report.without_caption, "without a score": report.without_score,
            "not in the share": report.filtered, "balanced away": report.balanced, "unreadable": report.unreadable,
        }  # fmt: skip
        out.print(
            f"{report.pairs:,} pairs in {report.shards:,} files of {report.folder}"
            + (f", {report.resumed:,} of them there before" if report.resumed else "")
            + f", {report.pairs_per_second:,.0f} pairs/s"
            + "".join(f"; {n:,} {why}" for why, n in left_out.items() if n)
        )
        for external_id, reason in report.problems[:5]:
            err.print(f"  {external_id}: {reason}", markup=False, soft_wrap=True)
        if report.unreadable > 5:
            err.print(f"  ... more in {report.folder}/export.json", markup=False, soft_wrap=True)
    if report.unreadable:
        raise typer.Exit(1)


def _export_vectors(
    space: str, folder: Path, file_format: str, collection: str | None, modality: str | None, unnormalised: bool,
    as_json: bool,
) -> None:  # fmt: skip
    if file_format not in {"npy", "parquet"}:
        raise UsageError(f"--format of vectors must be npy or parquet, not {file_format!r}")
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
