"""The main job, end to end: images in, vectors in Postgres, search in SQL."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import psycopg
import pytest

from models.encoder import load_encoder
from sightline.cli.ingest import read_jsonl
from sightline.client import Sightline
from sightline.errors import CallTimeout, UsageError
from sightline.item import Item


@pytest.fixture(scope="module", autouse=True)
def ingested(services: object, client: Sightline, scenes: Path) -> None:
    job = client.ingest(read_jsonl(scenes / "items.jsonl"), collection="scenes")
    ended = job.wait(timeout=120)
    assert (ended.done, ended.failed, ended.state) == (120, 0, "done")


def test_stored_vectors_are_the_models_own(sl: Sightline, scenes: Path) -> None:
    from PIL import Image

    encoder = load_encoder("bundled", device="cpu")
    hits = sl.search(image=scenes / "scene-test-000007.png", k=1, collection="scenes")
    assert hits[0].external_id == "scene-test-000007.png"
    assert hits[0].score == pytest.approx(1.0, abs=2e-3)  # halfvec
    with Image.open(scenes / "scene-test-000007.png") as image:
        pixels = encoder.prepare_image(np.asarray(image.convert("RGB")))
    own = encoder.encode_images([pixels])[0]
    with sl.database.transaction() as connection:
        stored, norm = connection.execute(
            "select embedding::text, norm from sightline.current_image where external_id = 'scene-test-000007.png'"
        ).fetchone()
    assert norm == pytest.approx(float(np.linalg.norm(own)), rel=1e-4)
    np.testing.assert_allclose(np.fromstring(stored.strip("[]"), sep=","), own / np.linalg.norm(own), atol=2e-3)


def test_text_queries_find_what_they_say_far_above_chance(sl: Sightline) -> None:
    """By the scenes' truth: the share of right first hits against the share of scenes that are right."""
    with sl.database.transaction() as connection:
        truth = [
            row[0] for row in connection.execute("select metadata->'kinds' from sightline.current_image").fetchall()
        ]
    counts = {kind: sum(kind in kinds for kinds in truth) for kind in {k for kinds in truth for k in kinds}}
    queries = [kind for kind, n in counts.items() if n >= 3]
    assert len(queries) >= 10
    right = chance = 0.0
    for kind in queries:
        hit = sl.search(text=f"a {kind}", k=1, collection="scenes")[0]
        right += kind in hit.metadata["kinds"]
        chance += counts[kind] / len(truth)
    assert right / len(queries) > 3 * chance / len(queries)


def test_a_filter_and_a_search_by_vector(sl: Sightline) -> None:
    (vector, *_), notes = sl.encode(texts=["a red star"])
    assert notes == [[]]
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-4)
    hits = sl.search(vector=vector, k=120, collection="scenes", where={"n": {"$lte": 2}})
    assert 0 < len(hits) < 120
    assert hits.status == "fewer_exist"
    assert all(hit.metadata["n"] <= 2 for hit in hits)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_a_second_ingest_encodes_nothing(sl: Sightline, scenes: Path) -> None:
    with sl.database.transaction() as connection:
        before = connection.execute("select max(embedded_at) from sightline.embedding").fetchone()
    ended = sl.ingest(read_jsonl(scenes / "items.jsonl"), collection="scenes").wait(timeout=60)
    assert (ended.submitted, ended.unchanged, ended.done) == (120, 120, 0)
    with sl.database.transaction() as connection:
        assert connection.execute("select max(embedded_at) from sightline.embedding").fetchone() == before


def test_changed_content_replaces_its_vector(sl: Sightline, scenes: Path) -> None:
    first, second = (scenes / f"scene-test-00000{n}.png" for n in (1, 2))
    sl.ingest([Item(path=first, external_id="changing")], collection="changing").wait(timeout=60)
    sl.ingest([Item(path=second, external_id="changing")], collection="changing").wait(timeout=60)
    assert sl.search(image=second, k=1, collection="changing")[0].score == pytest.approx(1, abs=2e-3)
    with sl.database.transaction() as connection:
        rows = connection.execute("select stale from sightline.current_image where external_id = 'changing'").fetchall()
    assert rows == [(False,)]


def test_bad_files_are_failures_and_their_neighbours_are_stored(sl: Sightline, scenes: Path, tmp_path: Path) -> None:
    good = (scenes / "scene-test-000003.png").read_bytes()
    (tmp_path / "good.png").write_bytes(good)
    (tmp_path / "truncated.png").write_bytes(good[: len(good) // 2])
    (tmp_path / "words.jpg").write_bytes(b"this is no image")
    (tmp_path / "also good.png").write_bytes((scenes / "scene-test-000004.png").read_bytes())
    job = sl.ingest(tmp_path, collection="bad files")
    ended = job.wait(timeout=60)
    assert (ended.submitted, ended.done, ended.failed, ended.pending) == (4, 2, 2, 0)
    failures = {failure.external_id: failure for failure in job.failures()}
    assert set(failures) == {"truncated.png", "words.jpg"}
    assert failures["truncated.png"].error_class == "TruncatedImage"
    assert failures["words.jpg"].error_class == "NotAnImage"
    with sl.database.transaction() as connection:
        rows = connection.execute(
            "select external_id, reason, detail from sightline.missing('current') where collection = 'bad files' order by 1"
        ).fetchall()
    assert [(external_id, reason) for external_id, reason, _ in rows] == [
        ("truncated.png", "failed"),
        ("words.jpg", "failed"),
    ]
    assert rows[1][2].startswith("NotAnImage: ")


def test_a_job_runs_once_the_callers_transaction_commits(sl: Sightline, database_url: str) -> None:
    with psycopg.connect(database_url) as mine:
        job = sl.ingest([Item(text="a green ring", external_id="later")], collection="later", connection=mine)
        mine.commit()
    assert job.wait(timeout=60).done == 1


def test_searches_in_threads(sl: Sightline) -> None:
    answers: list[list[str]] = []
    errors: list[Exception] = []

    def search() -> None:
        try:
            answers.append([hit.external_id for hit in sl.search(text="a blue circle", k=5, collection="scenes")])
        except Exception as error:  # noqa: BLE001 - whatever it is fails the test
            errors.append(error)

    threads = [threading.Thread(target=search) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(answers) == 16
    assert all(answer == answers[0] for answer in answers)


def test_calls_that_cannot_be_answered_say_why(sl: Sightline, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="NotAnImage: the query image is text"):
        sl.search(image=b"no image", k=1)
    with sl.database.transaction() as connection:
        connection.execute("select sightline.create_space('unserved', 'none', 3, pool => 'nobody')")
    with pytest.raises(CallTimeout, match=r"no worker answered on queue encode\.nobody\.interactive within 0\.3 s"):
        sl.encode(texts=["x"], space="unserved", timeout=0.3)


def test_a_long_query_is_reported_as_cut(sl: Sightline) -> None:
    (note,) = sl.search(text="red star " * 100, k=1, collection="scenes").notes
    assert "tokens of the text were read" in note
    assert sl.search(text="red star", k=1, collection="scenes").notes == []


def test_the_worker_is_started_again_when_it_dies(sl: Sightline, services, scenes: Path) -> None:
    import os
    import signal

    items = [Item(path=scenes / f"scene-test-{n:06d}.png", external_id=str(n)) for n in range(120)]
    with sl.database.transaction() as connection:  # other content, so that the vectors cannot be reused
        connection.execute(
            "select sightline.create_space('second', s.model, s.dim, s.passport) from sightline.space s where name = 'scenes'"
        )
    os.kill(services.worker.pid, signal.SIGKILL)
    job = sl.ingest(items, collection="killed", space="second")
    ended = job.wait(timeout=120)
    assert (ended.done, ended.failed, ended.state) == (120, 0, "done")
    assert services.worker.restarts >= 1
