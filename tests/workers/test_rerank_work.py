"""Rerank jobs, in process: what is cancelled is not scored."""

from __future__ import annotations

import uuid
from collections import Counter
from contextlib import closing
from pathlib import Path

import psycopg

from sightline.client import Sightline
from sightline.contracts.rerank import RerankPayload
from tests.models.tiny_scorers import build_bert_reranker
from workers.cancellations import Cancellations
from workers.contents import Contents
from workers.database import open_pool
from workers.decoders import Decoders
from workers.ingress import Ingress
from workers.ledger import Ledger
from workers.query_texts import QueryTexts
from workers.rerank_work import RerankWork
from workers.reranker import Reranker
from workers.scorers import Scorers
from workers.spaces import Spaces
from workers.writer import Writer


def test_cancelled_chunks_leave_no_scores_and_their_neighbours_do(
    space: str, database_url: str, client: Sightline, connection: psycopg.Connection, tmp_path: Path
) -> None:
    scorer = f"cross-encoder:{build_bert_reranker(tmp_path / 'tiny')}"
    client.submit("encode", {}, collection="texts", items=[{"text": f"text {n}"} for n in range(5)]).cancel()
    ids = [row[0] for row in connection.execute("select item_id from sightline.item order by item_id")]
    payload = {"query": "the text", "scorer": scorer}
    kept, dropped = (client.submit("rerank", payload, items=some) for some in (ids[:3], ids[2:]))
    cancellations = Cancellations()
    with open_pool(database_url, 4) as pool, closing(Decoders(2, item_seconds=60.0)) as decoders:
        ledger = Ledger(pool, uuid.uuid4())
        rows = connection.execute("select chunk_id from sightline.chunk where queue = 'rerank'").fetchall()
        chunks = ledger.claim([row[0] for row in rows])
        dropped.cancel()
        cancellations.update([chunk.chunk_id for chunk in chunks if chunk.job_id == dropped.job_id])
        spaces, scorers = Spaces(pool, ["encode"], "cpu"), Scorers([scorer], "cpu", lambda _: None)
        with closing(spaces), closing(scorers):
            contents = Contents(pool, Ingress([], 10**6, 10**6, 1000))
            reranker = Reranker(pool, spaces, contents, decoders, QueryTexts())
            work = RerankWork(reranker, scorers, Writer(pool, ledger), cancellations)
            served = spaces.find(space).result(60)
            # An item that another job wants too is scored, and counts for both.
            assert work.run(RerankPayload(**payload), served, chunks) == Counter(done=4, cancelled=2)
    rows = connection.execute(
        "select job_id, array_agg(item_id order by item_id) from sightline.ranking group by 1"
    ).fetchall()
    assert dict(rows) == {kept.job_id: ids[:3], dropped.job_id: ids[2:3]}
    ended = dropped.progress()
    assert (ended.finished, ended.done, ended.cancelled) == (True, 1, 2)
    assert kept.progress().done == 3
