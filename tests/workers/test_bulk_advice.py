"""What a load through an index takes is predicted from what was measured there, in SQL, Python and the shell."""

from __future__ import annotations

import psycopg
import pytest

from models.encoder import Encoder
from sightline.client import Sightline
from sightline.errors import RequestRefused
from sightline.space import bulk_advice, drop_indexes, index_space
from tests.workers.processes import Workers

ADVICE = "select rows_per_second, measured, drop_first, advice from sightline.bulk_advice('tiny', %s)"


def test_a_space_without_an_index_has_nothing_to_drop(client: Sightline, space: str) -> None:
    told = bulk_advice(client.database, "current", 10**6)
    assert (told.indexes, told.rows_per_second, told.insert_seconds, told.drop_first) == ([], None, None, None)
    assert told.advice.endswith("load, then build it: sightline space index tiny")


def test_the_rate_is_the_usual_one_until_vectors_went_through_the_index(
    client: Sightline, connection: psycopg.Connection, encoder: Encoder, space: str, start_worker: Workers
) -> None:
    index_space(client.database, "tiny")
    usual, measured, drop, said = connection.execute(ADVICE, (10**6,)).fetchone()
    assert (usual, measured, drop) == (pytest.approx(1000 / (1 + encoder.dim / 300)), 0, True)
    assert "inserting 1,000,000 vectors through tiny_image_hnsw and tiny_text_hnsw takes about 18 min (" in said
    assert said.endswith("sightline space index tiny --drop, load, sightline space index tiny")
    said = (
        f"inserting 100 vectors through tiny_image_hnsw and tiny_text_hnsw takes about 1 s ({round(usual)} a second, "
        f"usual for {encoder.dim} dimensions); a build would take 1 s: leave it"
    )
    assert connection.execute(ADVICE, (100,)).fetchone()[2:] == (False, said)

    start_worker()
    job = client.ingest([{"text": f"text {n}"} for n in range(600)], collection="load")
    waiting = job.index_advice()
    assert waiting is not None
    assert job.wait(timeout=60).done == 600
    rate, measured, _, said = connection.execute(ADVICE, (10**6,)).fetchone()
    assert measured == 600
    seconds = connection.execute(
        "select extract(epoch from max(finished_at) - min(flushed_from)) from sightline.chunk where job_id = %s",
        (job.job_id,),
    ).fetchone()[0]
    assert rate >= 600 / float(seconds)  # flushes alone, without the pauses between them
    assert f"({round(rate)} a second, as the last 600 did)" in said

    index_space(
        client.database, "tiny", rebuild=True
    )  # what was measured through the old index is no rate of the new one
    assert connection.execute(ADVICE, (10**6,)).fetchone()[1] == 0
    drop_indexes(client.database, "tiny")


def test_whoever_may_submit_or_search_is_told_and_nonsense_is_refused(
    client: Sightline, connection: psycopg.Connection, space: str
) -> None:
    for role in ("sightline_reader", "sightline_producer"):
        with connection.transaction():
            connection.execute(f"set local role {role}")
            assert connection.execute("select advice from sightline.bulk_advice('tiny', 5)").fetchone() is not None
    for vectors, modality, problem in ((-1, None, "vectors must be a number"), (1, "video", 'has no modality "video"')):
        with pytest.raises(RequestRefused, match=problem):
            bulk_advice(client.database, "tiny", vectors, modality=modality)
