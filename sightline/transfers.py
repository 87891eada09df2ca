"""The part of the client that carries vectors and training pairs in and out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sightline.results import Modality
from sightline.searches import Searches

if TYPE_CHECKING:
    from sightline.transfer.exporter import ExportReport
    from sightline.transfer.importer import ImportReport
    from sightline.transfer.pairs import PairsReport


class Transfers(Searches):
    """Imports and exports; see `Sightline`."""

    def import_vectors(
        self,
        space: str,
        vectors: Sequence[str | os.PathLike[str]],
        ids: Sequence[str | os.PathLike[str]] = (),
        *,
        collection: str | None = None,
        modality: Modality = "image",
        id_column: str | None = None,
        source_column: str | None = None,
        text_column: str | None = None,
        vector_column: str = "vector",
        root: str | os.PathLike[str] | None = None,
        passport: str | os.PathLike[str] | None = None,
        assume_passport: bool = False,
        progress: bool = False,
    ) -> ImportReport:
        """Store vectors that were computed elsewhere. Needs the rights of the schema's owner.

        Doing it again writes only what differs. A bad row (NaN, zero, an id given twice) becomes a failure of a job, as
        in an ingest; its neighbours are stored. An item without a source gets the uri `vector:<id>`: it can be found,
        and cannot be encoded again.

        Args:
            space: name or alias of the space, made for the model that computed the vectors.
            vectors: `.npy` files of float16 or float32 (rows, dim), parquet files, or folders of either.
            ids: files of ids, or of rows (.txt, .json, .jsonl, .npy, .parquet): as many as of vectors, or one for all.
                None for what `export_vectors` wrote, and where parquet files hold ids beside the vectors.
            collection: by default the one that an exported row names, else `default`.
            modality: of rows that do not name their own.
            id_column: the external_id; by default `external_id` or `id`, else the source.
            source_column: path or URI of the content; by default `uri`.
            text_column: the text, which rows of texts must have; by default `text`.
            vector_column: of parquet files.
            root: paths are relative to it, and ids that are paths are named relative to it, as in `ingest`.
            passport: of the model that computed the vectors; by default `passport.json` beside them.
            assume_passport: there is none, but they are of the space's model. A few are compared, where the contents
                can be read here.
            progress: show on stderr how many rows were stored.

        Raises:
            UsageError: files that cannot be read or do not fit each other or the space; nothing was stored.
            RequestRefused: the passport is another than the space's; the message says in what they differ.
            PolicyRefused: the vectors are not what the space's model makes of the contents.
        """
        from sightline.transfer.importer import import_vectors

        return import_vectors(
            self, space, [Path(path) for path in vectors], [Path(path) for path in ids], collection=collection,
            modality=modality, id_column=id_column, source_column=source_column, text_column=text_column,
            vector_column=vector_column, root=None if root is None else Path(root),
            passport=None if passport is None else Path(passport), assume_passport=assume_passport, progress=progress,
        )  # fmt: skip

    def export_vectors(
        self,
        space: str,
        folder: str | os.PathLike[str],
        *,
        file_format: Literal["npy", "parquet"] = "npy",
        collection: str | None = None,
        modality: Modality | None = None,
        unnormalised: bool = False,
        progress: bool = False,
    ) -> ExportReport:
        """Write the vectors of a space, their items and the space's passport into a new folder.

        `npy`: `vectors_00000.npy` and, row for row, `items_00000.jsonl`. `parquet`: `part_00000.parquet`. The folder is
        there whole or not at all. Vectors of content that changed since are left out, and counted.

        Args:
            space: name or alias of the space.
            folder: made by the export.
            file_format: npy, or parquet, which needs the extra `parquet`.
            collection: only this one.
            modality: only images, or only texts.
            unnormalised: float32 times the norm that the vectors had, instead of float16 of length 1.
            progress: show on stderr how many rows were written.

        Raises:
            UsageError: the folder is there already, or there is no such collection.
        """
        from sightline.transfer.exporter import export_vectors

        return export_vectors(
            self, space, Path(folder), file_format=file_format, collection=collection, modality=modality,
            unnormalised=unnormalised, progress=progress,
        )  # fmt: skip

    def export_pairs(
        self,
        folder: str | os.PathLike[str],
        *,
        file_format: Literal["webdataset", "parquet"] = "webdataset",
        collection: str | None = None,
        keep_share: float | None = None,
        keep_by: Literal["match", "alignment"] = "match",
        balance: str | os.PathLike[str] | None = None,
        per_entry: int = 20_000,
        shard_pairs: int = 1000,
        seed: str = "0",
        progress: bool = False,
    ) -> PairsReport:
        """Write images with their captions into shards to train on.

        Each pair is an image, the caption to train on (the selected one, else the owner's, else the one that matches
        best) and, as JSON, the item with all its captions, their scores and provenance; negatives are marked. Run again
        with the same arguments, it goes on behind the last whole shard. The same stored rows give the same shards.

        Args:
            folder: made by the export; `export.json` in it says how far it is.
            file_format: webdataset (tar files), or parquet, which needs the extra `parquet`.
            collection: only this one.
            keep_share: keep this share of the pairs that have a score, the best first.
            keep_by: the score: the matcher's probability, or the cosine of image and caption.
            balance: a file of words and phrases, one a line; captions are kept by them as MetaCLIP does, and those that
                name none are left out.
            per_entry: about how many pairs a common entry keeps.
            shard_pairs: in one file.
            seed: of the hashes that decide; another one keeps others.
            progress: show on stderr how many images were looked at.

        Raises:
            UsageError: a wrong argument, a folder of something else, or no such collection.
        """
        from sightline.transfer.pairs import PairsPlan, export_pairs

        plan = PairsPlan(
            file_format, collection, keep_share, keep_by, None if balance is None else Path(balance), per_entry,
            shard_pairs, seed,
        )  # fmt: skip
        return export_pairs(self, Path(folder), plan, progress=progress)
