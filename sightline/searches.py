"""The part of the client that asks: spaces, queries, searches, reranking."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, SupportsFloat

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from sightline.broker import as_reply
from sightline.composed import composed_query
from sightline.connection import Connection
from sightline.errors import UsageError
from sightline.hybrid import hybrid_hits
from sightline.item import path_of_uri
from sightline.query import check_modalities, check_search, image_bytes_of, naming_the_query, vector_literal
from sightline.rerank import Ranking, RerankCandidate, check_reranked, rerank, reranked
from sightline.results import Hits, Modality, Space, hits_of

if TYPE_CHECKING:
    from sightline.calibrate import CalibrationReport, LabelledPair  # they need numpy, which a search does not
    from sightline.calibration import Method
    from sightline.compose import Compose

_SELECT_SPACE = (
    "select name, model, revision, dim, modalities, pool, passport, "
    "array(select alias from sightline.space_alias a where a.space_id = s.space_id order by 1) as aliases"
)


class Searches(Connection):
    """Spaces, queries, searches and reranking; see `Sightline`."""

    def spaces(self) -> list[Space]:
        """All spaces, by name."""
        with self.database.statement() as connection, connection.cursor(row_factory=class_row(Space)) as cursor:
            return cursor.execute(f"{_SELECT_SPACE} from sightline.space s order by name").fetchall()

    def space(self, name: str = "current") -> Space:
        """The space that a name or alias means."""
        with self.database.statement() as connection, connection.cursor(row_factory=class_row(Space)) as cursor:
            space = cursor.execute(
                f"{_SELECT_SPACE} from sightline.resolve_space(%s) s",
                (name,),
            ).fetchone()
        assert space is not None
        return space

    def encode(
        self,
        *,
        texts: Sequence[str] = (),
        images: Sequence[bytes] = (),
        space: str = "current",
        timeout: float | None = None,
    ) -> tuple[list[list[float]], list[list[str]]]:
        """Encode queries on a worker, now: nothing is stored.

        Returns:
            One vector of unit length for each text, then for each image; and for each what the vector does not show of
            it: the end of a long text, other frames of an animation.

        Raises:
            UsageError: a text for a space of images only.
            CallTimeout: no worker answered in time (SIGHTLINE_CALL_SECONDS).
            CallFailed: an input could not be encoded; the message names it.
            ContractViolated: none or too many inputs, or one of a wrong type.
        """
        from sightline.contracts.encode import EncodeReply, EncodeRequest
        from sightline.contracts.problem import validated

        target = self.space(space)
        check_modalities(target, texts, images)
        inputs = [{"text": text} for text in texts] + [{"image": base64.b64encode(image).decode()} for image in images]
        asked = {"kind": "encode", "space": target.name, "inputs": inputs}
        request = validated(EncodeRequest, asked, "call of encode").model_dump(exclude_none=True)
        seconds = self.settings.call_seconds if timeout is None else timeout
        reply = as_reply(EncodeReply, self.broker.call(f"{target.queue}.interactive", request, seconds))
        return [list(vector) for vector in reply.vectors], [list(notes) for notes in reply.notes]

    def search(
        self,
        *,
        text: str | None = None,
        image: str | os.PathLike[str] | bytes | None = None,
        vector: Sequence[SupportsFloat] | None = None,
        k: int = 10,
        collection: str | None = None,
        where: Mapping[str, Any] | None = None,
        space: str = "current",
        modality: Modality = "image",
        per_group: bool = False,
        hybrid: bool = False,
        lang: str = "en",
        rerank: bool | str = False,
        candidates: int = 100,
        threshold: float | None = None,
        compose: Compose | None = None,
        reference: str | None = None,
        factors: Mapping[str, float] | None = None,
    ) -> Hits:
        """The k stored items nearest to a text, an image (path or bytes), a vector, or an image and a text composed.

        Args:
            text: a query in words; exactly one of text, image and vector is given.
            image: path or bytes of an image file.
            vector: as many numbers as the space has dimensions.
            k: how many hits.
            collection: search in this collection only.
            where: filter on metadata, `{"year": 2024, "price": {"$lt": 10}}`; operators $in $lt $lte $gt $gte $exists.
            space: name or alias of the space.
            modality: what to find, images or texts.
            per_group: the nearest item of each group only: k hits of k groups. A group is what has the same `group_key`
                in one collection; an item without one is a group of its own.
            hybrid: by words too: image vectors, vectors and words of captions, and words of texts, fused by their ranks
                (`sightline.hybrid_search` in SQL). For a text; not by groups.
            lang: language of the text in a hybrid search: English, German (de) and Spanish (es) words are stemmed.
            rerank: put the nearest in the order of a stronger scorer: its name, or True for the worker's default one.
            candidates: how many of the nearest are reranked.
            threshold: leave out what a reranking finds less relevant than this, which may be everything. It needs a
                calibration of the scorer on `collection` (`sightline calibrate relevance`).
            compose: image and text are one query: "sum" of both vectors, for words that add to the image; or "pdv", the
                way from `reference`, a text of the image, to `text`, what is wanted (sightline/compose.py).
            reference: see compose.
            factors: alpha_image, alpha_text and beta of "pdv".

        Raises:
            UsageError: an argument of the wrong type.
            RequestRefused: no such space or collection, wrong dimension, a bad filter.
            CallTimeout: no worker encoded the query in time.
            CallFailed: a worker refused the query, the scorer or the threshold.
        """
        if compose is not None:
            check_search(text, None, k, where)
            if rerank or hybrid or threshold is not None:
                raise UsageError("a composed query is a vector: it takes neither rerank, threshold nor hybrid")
            composed, told = composed_query(self, compose, image, text, vector, reference, factors, space)
            hits = self.search(
                vector=composed, k=k, collection=collection, where=where, space=space, modality=modality,
                per_group=per_group,
            )  # fmt: skip
            hits.notes += told
            return hits
        if reference is not None or factors is not None:
            raise UsageError("reference and factors are for composed queries: give compose too")
        if rerank:
            words = check_reranked(text, vector, k, where, candidates)
            hits = self.search(
                text=text, image=image, vector=vector, k=max(k, candidates), collection=collection, where=where,
                space=space, modality=modality, per_group=per_group, hybrid=hybrid, lang=lang,
            )  # fmt: skip
            return reranked(self, words, hits, k, None if rerank is True else rerank, collection, threshold, space)
        if threshold is not None:
            raise UsageError("a threshold is for a scorer's relevance: it needs rerank")
        given = [name for name, value in (("text", text), ("image", image), ("vector", vector)) if value is not None]
        if len(given) != 1:
            raise UsageError(f"search takes exactly one of text, image and vector, not {' and '.join(given) or 'none'}")
        if hybrid and (text is None or per_group):
            raise UsageError("a hybrid search takes a text, and does not group: its hits are not those of one order")
        notes: list[str] = []
        check_search(text, vector, k, where)
        if vector is None:
            texts = [] if text is None else [text]
            images = [] if image is None else [image_bytes_of(image, self.settings)]
            with naming_the_query(image):
                (query, *_), (notes, *_) = self.encode(texts=texts, images=images, space=space)
        else:
            query = [float(x) for x in vector]
        if hybrid and text is not None:
            return hybrid_hits(
                self.database, space, text, query, k=k, collection=collection, where=where, modality=modality,
                lang=lang, notes=notes,
            )  # fmt: skip
        return self._hits("nearest", space, vector_literal(query), k, collection, where, modality, per_group, notes)

    def rerank(
        self,
        query: str,
        candidates: Sequence[RerankCandidate],
        *,
        scorer: str | None = None,
        k: int | None = None,
        collection: str | None = None,
        threshold: float | None = None,
        space: str = "current",
        timeout: float | None = None,
    ) -> Ranking:
        """Put candidates in the order of their relevance for a query, on a worker, now: nothing is stored.

        Args:
            query: in words.
            candidates: at most 1,000: ids of stored items or hits, texts (str), images (bytes or a `Path`).
            scorer: its name, such as "matcher" or "cross-encoder:BAAI/bge-reranker-base"; None is the worker's default.
            k: how many are kept; None keeps all.
            collection: whose calibration makes probabilities of the scores; None leaves them raw.
            threshold: leave out what is less relevant, which may be everything; refused without a calibration.
            space: whose stored vectors `dual-encoder` and `late-interaction` use.
            timeout: seconds; by default SIGHTLINE_RERANK_SECONDS.

        Returns:
            The candidates by their places; those that could not be scored are in its `errors`.

        Raises:
            UsageError: an argument of the wrong type.
            ContractViolated: too many candidates, an empty query, or a value of the wrong type.
            CallTimeout: no worker answered in time.
            CallFailed: a worker refused the query, the scorer or the threshold.
        """
        return rerank(
            self, query, candidates, scorer=scorer, k=k, collection=collection, threshold=threshold, space=space,
            timeout=timeout,
        )  # fmt: skip

    def calibrate_relevance(
        self,
        pairs: Iterable[LabelledPair],
        *,
        collection: str,
        scorer: str | None = None,
        precision: float = 0.9,
        method: Method | None = None,
        held_out: float = 0.3,
        space: str = "current",
        progress: bool = False,
    ) -> CalibrationReport:
        """Fit and store what makes probabilities of a scorer's scores on a collection, and a threshold.

        Args:
            pairs: queries with items of the collection, and whether they fit.
            collection: what the calibration is for.
            scorer: its name; None is the worker's default.
            precision: share of relevant pairs that is wanted above the threshold.
            method: isotonic or temperature; None is isotonic from 200 pairs.
            held_out: share of the queries, by their digests, that the report is on.
            space: whose stored vectors the scorer may use.
            progress: show on stderr how many pairs were scored.

        Raises:
            UsageError: labels that contradict each other, items that are not there, too few queries, or pairs that are
                all relevant.
            CallFailed: a worker refused a query or the scorer.
        """
        from sightline.calibrate import calibrate_relevance

        return calibrate_relevance(
            self, pairs, collection=collection, scorer=scorer, precision=precision, method=method, held_out=held_out,
            space=space, progress=progress,
        )  # fmt: skip

    def similar_to(
        self,
        item_id: int,
        *,
        k: int = 10,
        collection: str | None = None,
        where: Mapping[str, Any] | None = None,
        space: str = "current",
        modality: Modality = "image",
        per_group: bool = False,
    ) -> Hits:
        """The k stored items nearest to a stored one, without it; `per_group` as in `search`.

        The other items of its own group are a group like any other.
        """
        check_search(None, None, k, where)
        return self._hits("similar_to", space, item_id, k, collection, where, modality, per_group)

    def image_bytes(self, item_id: int) -> bytes:
        """The bytes of a stored image file.

        Raises:
            UsageError: there is no such image, or its file is gone.
        """
        with self.database.statement() as connection:
            row = connection.execute(
                "select i.uri, b.bytes, i.blob_digest "
                "from sightline.item i left join sightline.blob b on b.digest = i.blob_digest "
                "where i.item_id = %s and i.modality = 'image'",
                (item_id,),
            ).fetchone()
        if row is None:
            raise UsageError(f"there is no image {item_id}")
        uri, content, digest = row
        if content is None and digest is not None:
            if self.media is None:
                raise UsageError(
                    f"the content of image {item_id} lies in a media store, and SIGHTLINE_MEDIA_URL is not set here"
                )
            content = self.media.get(digest, self.settings.max_bytes)
            if content is None:
                raise UsageError(
                    f"the content of image {item_id} lies in the media store (SIGHTLINE_MEDIA_URL), not there whole"
                )
        if content is None and not uri.startswith("file:///"):
            raise UsageError(f"the content of image {item_id} is not stored here, its source is {uri}")
        return bytes(content) if content is not None else image_bytes_of(path_of_uri(uri), self.settings)

    def _hits(
        self, function: str, space: str, query: str | int, k: int, collection: str | None,
        where: Mapping[str, Any] | None, modality: str, per_group: bool, notes: Iterable[str] = (),
    ) -> Hits:  # fmt: skip
        with self.database.statement() as connection:
            rows = connection.execute(
                "select n.item_id, n.external_id, n.score, n.distance, c.name, i.modality, i.metadata, i.text, i.uri, "
                f"n.group_key, n.status from sightline.{function}(%s, %s, %s, %s, %s, %s, %s) with ordinality n "
                "join sightline.item i on i.item_id = n.item_id "
                "join sightline.collection c on c.collection_id = i.collection_id order by n.ordinality",
                (space, query, k, collection, None if where is None else Jsonb(dict(where)), modality, per_group),
            ).fetchall()
        return hits_of(rows, notes)
