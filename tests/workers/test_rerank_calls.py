"""Rerank calls through a real worker: each candidate its score or its own error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from psycopg.types.json import Jsonb

from models.encoder import Encoder
from models.matcher import load_matcher
from models.scenes.captions import caption
from models.scenes.parse import parse
from models.scenes.render import render
from models.scenes.sample import sample_scene
from models.scorers import version_of
from sightline.calibrate import LabelledPair
from sightline.client import Sightline
from sightline.errors import CallFailed, ContractViolated, UsageError
from sightline.item import Item
from tests.kit.rerank_server import RerankServer
from tests.models.tiny_scorers import build_bert_reranker
from tests.workers.processes import WorkerProcess, Workers

SCENES = [sample_scene(number, split_name="test") for number in range(12)]
QUERY = caption(SCENES[3], "full", 1).text


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"cross-encoder:{build_bert_reranker(tmp_path_factory.mktemp('rerankers') / 'tiny-bert')}"


@pytest.fixture(scope="module", autouse=True)
def worker(space: str, start_worker: Workers, cross_encoder: str) -> WorkerProcess:
    names = f'["matcher", "dual-encoder", "late-interaction", "{cross_encoder}", "cross-encoder:/nowhere"]'
    return start_worker(scorers=names)


@pytest.fixture(scope="module")
def stored(worker: WorkerProcess, client: Sightline, media: Path) -> list[int]:
    """Ids of rendered scenes in their order: files that stay where they are."""
    for number, scene in enumerate(SCENES):
        render(scene, 96).save(media / f"scene-{number:02}.png")
    items = [Item(path=media / f"scene-{number:02}.png", external_id=f"scene-{number:02}") for number in range(12)]
    job = client.ingest(items, collection="scenes")
    job.wait(60)
    with client.database.transaction() as connection:
        rows = connection.execute("select item_id from sightline.item order by external_id").fetchall()
    return [item_id for (item_id,) in rows]


def test_stored_images_are_ranked_as_the_bare_scorer_ranks_them(client: Sightline, stored: list[int]) -> None:
    ranking = client.rerank(QUERY, stored)
    matcher = load_matcher(device="cpu")
    pictures = [matcher.prepare(np.asarray(render(scene, 96)), "candidate") for scene in SCENES]
    bare = matcher.score(matcher.prepare(QUERY, "query"), pictures)
    assert ranking.errors == []
    assert ranking[0].candidate == 3
    assert [one.raw_score for one in ranking] == sorted((one.raw_score for one in ranking), reverse=True)
    assert {one.candidate: one.raw_score for one in ranking} == pytest.approx(dict(enumerate(bare.tolist())), abs=1e-5)
    assert ranking.scorer == "matcher"
    assert ranking.scorer_version == version_of(matcher.identity)
    assert ranking.calibration_id is None
    assert {"load", "read", "prepare", "score", "total"} <= set(ranking.seconds)


def test_each_bad_candidate_gets_its_own_error_and_the_rest_is_ranked(
    client: Sightline, stored: list[int], media: Path
) -> None:
    gone = media / "gone.png"
    render(SCENES[0], 64).save(gone)
    client.ingest([Item(path=gone, external_id="gone")], collection="gone").wait(60)
    with client.database.transaction() as connection:
        (gone_id,) = connection.execute("select item_id from sightline.item where external_id = 'gone'").fetchone()
    gone.unlink()
    ranking = client.rerank(QUERY, [stored[0], gone_id, 10**12, stored[3], "", "a text", b"no image", stored[0]])
    assert {one.candidate for one in ranking} == {0, 3}
    told = {error.candidate: (error.error_class, error.message) for error in ranking.errors}
    assert told[1][0] == "NotFound"
    assert "gone" in told[1][1]
    assert told[2] == ("NoSuchItem", "candidate 2: there is no item 1000000000000")
    assert told[4][0] == told[5][0] == "InvalidInput"
    assert "empty" in told[4][1]
    assert "a text query cannot be compared with a text" in told[5][1]
    assert told[6][0] == "NotAnImage"
    assert told[7] == ("InvalidInput", f"candidate 7: item {stored[0]} was given before")


def test_texts_are_ranked_by_a_cross_encoder_whatever_their_length(client: Sightline, cross_encoder: str) -> None:
    texts = ["the cat", "a photo of a red cube", "x " * 300, "two small green spheres"]
    ranking = client.rerank("RED shoes!", texts, scorer=cross_encoder)
    alone = [client.rerank("RED shoes!", [text], scorer=cross_encoder)[0].raw_score for text in texts]
    assert {one.candidate: one.raw_score for one in ranking} == pytest.approx(dict(enumerate(alone)), abs=1e-5)
    assert [one.note for one in sorted(ranking, key=lambda one: one.candidate)] == [
        None, None, "only the beginning of the text was read", None,
    ]  # fmt: skip


def test_the_dual_encoder_ranks_by_stored_vectors(client: Sightline, stored: list[int]) -> None:
    ranking = client.rerank("a red cube", stored, scorer="dual-encoder")
    nearest = client.search(text="a red cube", collection="scenes", k=12)
    assert [stored[one.candidate] for one in ranking] == [hit.item_id for hit in nearest]
    for one, hit in zip(ranking, nearest, strict=True):
        assert one.raw_score == pytest.approx((1 + hit.score) / 2, abs=2e-3)


def test_late_interaction_takes_stored_slots_and_content_that_is_sent(
    client: Sightline, stored: list[int], encoder: Encoder
) -> None:
    with client.database.transaction() as connection:
        connection.execute(
            "insert into sightline.embedding (space_id, item_id, slot, generation, norm, modality, vec) "
            "select space_id, %s, 1, generation, norm, modality, vec from sightline.embedding where item_id = %s and slot = 0",
            (stored[0], stored[5]),
        )
    query = "a red cube"
    before = client.rerank(query, [stored[0], stored[5]], scorer="late-interaction")
    both = {one.candidate: one.raw_score for one in before}
    with client.database.transaction() as connection:
        connection.execute("delete from sightline.embedding where item_id = %s and slot = 1", (stored[0],))
    after = {
        one.candidate: one.raw_score for one in client.rerank(query, [stored[0], stored[5]], scorer="late-interaction")
    }
    assert both[0] == pytest.approx(max(after[0], after[1]), abs=1e-6), "the better of two slots counts"
    sent = client.rerank(query, ["a red cube", "the cat", ""], scorer="late-interaction")
    assert sent[0].candidate == 0
    assert sent[0].raw_score == pytest.approx(1, abs=1e-3)
    assert [error.candidate for error in sent.errors] == [2]


def test_content_that_is_sent_together_is_scored_as_alone(client: Sightline, media: Path, stored: list[int]) -> None:
    sent = [
        media / "scene-03.png",
        "a red cube",
        b"no image",
        stored[4],
        "two cones, and a cube",
        "",
        media / "scene-05.png",
    ]
    for scorer in ("dual-encoder", "late-interaction"):
        ranking = client.rerank(QUERY, sent, scorer=scorer)
        assert {error.candidate: error.error_class for error in ranking.errors} == {2: "NotAnImage", 5: "InvalidInput"}
        alone = {place: client.rerank(QUERY, [sent[place]], scorer=scorer)[0].raw_score for place in (0, 1, 3, 4, 6)}
        assert {one.candidate: one.raw_score for one in ranking} == pytest.approx(alone, abs=1e-5)


def test_a_threshold_without_a_calibration_is_refused(client: Sightline, stored: list[int]) -> None:
    with pytest.raises(CallFailed, match=r"NotCalibrated: .*none for scenes.*calibrate relevance"):
        client.rerank(QUERY, stored, scorer="late-interaction", collection="scenes", threshold=0.5)
    with pytest.raises(CallFailed, match="no collection was named"):
        client.rerank(QUERY, stored, threshold=0.5)


def test_a_calibration_of_the_collection_makes_probabilities(client: Sightline, stored: list[int]) -> None:
    version = client.rerank(QUERY, stored[:1]).scorer_version
    raw = {one.candidate: one.raw_score for one in client.rerank(QUERY, stored)}
    with client.database.transaction() as connection:
        (calibration,) = connection.execute(
            "select sightline.store_calibration('scenes', 'matcher', %s, 'isotonic', %s, sha256('x'), 10, 5)",
            (version, Jsonb({"scores": [0.0, 1.0], "shares": [0.0, 0.5]})),
        ).fetchone()
    ranking = client.rerank(QUERY, stored, collection="scenes", threshold=0.25)
    assert ranking.calibration_id == calibration
    assert {one.candidate for one in ranking} == {place for place, score in raw.items() if score >= 0.5}
    assert ranking.dropped == len(stored) - len(ranking)
    for one in ranking:
        assert one.score == pytest.approx(raw[one.candidate] / 2, abs=1e-6)
    # Another version of the scorer, or another collection, has none.
    with pytest.raises(CallFailed, match="NotCalibrated"):
        client.rerank(QUERY, stored, collection="gone", threshold=0.25)


def test_a_search_is_put_in_the_order_of_the_scorer(client: Sightline, stored: list[int]) -> None:
    hits = client.search(text=QUERY, collection="scenes", k=3, rerank=True)
    ranking = client.rerank(QUERY, stored, k=3, collection="scenes")
    assert [hit.item_id for hit in hits] == [stored[one.candidate] for one in ranking]
    assert [hit.relevance for hit in hits] == [one.score for one in ranking]
    assert hits.ranking is not None
    assert hits.ranking.scorer == "matcher"
    with pytest.raises(UsageError, match="takes a query in words"):
        client.search(vector=[1.0] * client.space("tiny").dim, rerank=True)


def test_scorers_that_the_worker_may_not_load_are_refused_by_name(client: Sightline) -> None:
    with pytest.raises(CallFailed, match=r"ScorerRefused: scorer 'yes-no:/etc' is none of this worker's"):
        client.rerank("a", ["b"], scorer="yes-no:/etc")
    with pytest.raises(CallFailed, match="ScorerRefused: scorer cross-encoder:/nowhere is not served"):
        client.rerank("a", ["b"], scorer="cross-encoder:/nowhere")


def test_a_call_that_does_not_fit_its_contract_is_refused_here(client: Sightline) -> None:
    with pytest.raises(ContractViolated, match="query"):
        client.rerank("", ["b"])
    with pytest.raises(UsageError, match="candidate 1 must be an item id"):
        client.rerank("a", ["b", 1.5])  # type: ignore[list-item]
    assert client.rerank("a", []) == []


def test_images_may_be_sent(client: Sightline, media: Path, stored: list[int]) -> None:
    sent = client.rerank(QUERY, [media / "scene-03.png", (media / "scene-04.png").read_bytes(), stored[3]])
    by_place = {one.candidate: one.raw_score for one in sent}
    assert by_place[0] == pytest.approx(by_place[2], abs=1e-6)
    assert by_place[0] > by_place[1]


def test_a_rerank_job_leaves_a_row_for_each_candidate(client: Sightline, stored: list[int]) -> None:
    calibrated = {one.candidate: one for one in client.rerank(QUERY, stored, collection="scenes")}
    job = client.submit("rerank", {"query": QUERY}, items=stored)
    job.wait(60)
    with client.database.transaction() as connection:
        rows = connection.execute(
            "select rank, item_id, raw_score, score, query, scorer, calibrated, stale, seconds > 0 "
            "from sightline.rankings where job_id = %s order by rank",
            (job.job_id,),
        ).fetchall()
    assert [row[0] for row in rows] == list(range(1, 13))
    assert [row[1] for row in rows] == [stored[place] for place in calibrated]
    for row in rows:
        told = calibrated[stored.index(row[1])]
        assert row[2:4] == (pytest.approx(told.raw_score, abs=1e-5), pytest.approx(told.score, abs=1e-5))
        assert row[4:] == (QUERY, "matcher", True, False, True)


def test_a_rerank_job_in_sql_ranks_a_whole_collection_and_bad_items_are_failures(
    client: Sightline, stored: list[int]
) -> None:
    with client.database.transaction() as connection:
        (job_id,) = connection.execute(
            "select sightline.submit('rerank', '{\"query\": \"a red cube\"}', 'gone')"
        ).fetchone()
        (other,) = connection.execute(
            'select sightline.submit(\'rerank\', \'{"query": "a red cube", "scorer": "yes-no:/etc"}\', items => %s)',
            (Jsonb(stored[:1]),),
        ).fetchone()
    for number, told in ((job_id, "NotFound"), (other, "ScorerRefused")):
        job = client.job(number)
        job.wait(60)
        assert job.progress().failed == 1
        with client.database.transaction() as connection:
            rows = connection.execute(
                "select error_class from sightline.failed_items where job_id = %s", (number,)
            ).fetchall()
        assert rows == [(told,)]


def test_a_calibration_is_fitted_stored_and_held_against_other_queries(client: Sightline, stored: list[int]) -> None:
    pairs = [
        LabelledPair(
            caption(scene, kind, 1).text, f"scene-{place:02}", parse(caption(scene, kind, 1).text).matches(other)
        )
        for scene in SCENES
        for kind in ("full", "short")
        for place, other in enumerate(SCENES)
    ]
    report = client.calibrate_relevance(pairs, collection="scenes", precision=0.8)
    assert report.fitted + report.held_out == len({(pair.query, pair.external_id) for pair in pairs})
    assert report.unscored == 0
    assert report.method == "temperature", "few pairs: slope and offset"
    assert report.brier <= report.brier_raw + 0.02
    assert report.threshold is not None
    ranking = client.rerank(pairs[0].query, stored, collection="scenes", threshold=report.threshold)
    assert ranking.calibration_id == report.calibration_id
    assert all(one.score >= report.threshold for one in ranking)
    with pytest.raises(UsageError, match="has no 'nothing'"):
        client.calibrate_relevance([LabelledPair("a", "nothing", True)], collection="scenes")
    with pytest.raises(UsageError, match="labelled both ways"):
        client.calibrate_relevance([*pairs, replace(pairs[0], relevant=not pairs[0].relevant)], collection="scenes")


def test_an_image_and_words_are_one_query(client: Sightline, stored: list[int], media: Path) -> None:
    image, wanted, reference = media / "scene-03.png", "a red cube", "a blue cone"
    (w, r, i), _ = client.encode(texts=[wanted, reference], images=[image.read_bytes()])
    with client.database.transaction() as connection:
        for function, arguments, ours in (
            ("compose_sum", (i, w), client.search(image=image, text=wanted, compose="sum", collection="scenes", k=12)),
            ("compose_pdv", (i, r, w), client.search(
                image=image, text=wanted, reference=reference, compose="pdv", collection="scenes", k=12)),
        ):  # fmt: skip
            places = ", ".join(["%s::halfvec"] * len(arguments))
            rows = connection.execute(
                f"select item_id, score from sightline.nearest('tiny', sightline.{function}({places}), 12, 'scenes')",
                [str(vector) for vector in arguments],
            ).fetchall()
            theirs = dict(rows)
            assert {hit.item_id: hit.score for hit in ours} == pytest.approx(theirs, abs=5e-3)
    with pytest.raises(UsageError, match="pdv needs reference"):
        client.search(image=image, text=wanted, compose="pdv")
    with pytest.raises(UsageError, match="unknown factor gamma"):
        client.search(image=image, text=wanted, compose="pdv", reference="a", factors={"gamma": 1})
    with pytest.raises(UsageError, match="takes an image and a text"):
        client.search(text=wanted, compose="sum")


def test_an_endpoint_ranks_texts(
    client: Sightline, stored: list[int], start_worker: Workers, worker: WorkerProcess
) -> None:
    worker.terminate()
    with RerankServer() as server:
        second = start_worker(scorers='["endpoint:some/model"]', rerank_url=server.url, rerank_key="secret")
        ranking = client.rerank("the red cube", ["a cat", "the red cube", stored[0]])
        assert [one.candidate for one in ranking] == [1, 0]
        assert ranking.scorer == "endpoint:some/model"
        assert [error.candidate for error in ranking.errors] == [2]
        server.answers = [(400, {}, {"error": "no"})]
        (error,) = client.rerank("the red cube", ["a cat"]).errors
        assert "EndpointRefused" in error.message
        second.terminate()
