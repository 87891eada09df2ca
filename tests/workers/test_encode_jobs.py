"""Jobs end to end through a real worker: images and texts in, vectors in Postgres out."""

from __future__ import annotations

import io
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from PIL import Image

from models.encoder import Encoder
from sightline.broker import CHUNKS_TASK, Broker
from sightline.client import Sightline
from sightline.settings import Settings
from tests.models.tiny_checkpoints import DIM
from tests.workers.conftest import make_space, png
from tests.workers.processes import WorkerProcess, Workers, until

pytestmark = pytest.mark.usefixtures("ledger_adds_up")


@pytest.fixture(scope="module", autouse=True)
def worker(space: str, start_worker: Workers) -> WorkerProcess:
    return start_worker("--queues", "encode,encode.gpu")


def stored(connection: psycopg.Connection, collection: str) -> dict[str, np.ndarray]:
    rows = connection.execute(
        f"select i.external_id, e.vec::vector({DIM})::real[] from sightline.embedding e "
        "join sightline.item i using (item_id) join sightline.collection c using (collection_id) where c.name = %s",
        (collection,),
    ).fetchall()
    return {name: np.array(vector, np.float32) for name, vector in rows}


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def test_images_and_texts_become_the_models_own_vectors(
    client: Sightline, connection: psycopg.Connection, media: Path, encoder: Encoder
) -> None:
    (media / "one.png").write_bytes(png(1))
    items: list[Any] = [
        {"path": media / "one.png", "external_id": "file"},
        {"data": png(2), "external_id": "upload"},
        {"text": "a photo of a red cube", "external_id": "text"},
    ]
    progress = client.ingest(items, collection="mixed").wait(timeout=20)
    assert (progress.state, progress.done, progress.failed) == ("done", 3, 0)
    found = stored(connection, "mixed")
    pixels = [np.asarray(Image.open(io.BytesIO(png(seed)))) for seed in (1, 2)]
    images = encoder.encode_images([encoder.prepare_image(image) for image in pixels])
    texts = encoder.encode_texts([encoder.prepare_text("a photo of a red cube")])
    for name, expected in zip(("file", "upload", "text"), [*images, *texts], strict=True):
        assert np.abs(found[name] - unit(expected)).max() < 2e-3, name  # halfvec
    norm = connection.execute(
        "select norm from sightline.embedding join sightline.item using (item_id) where external_id = 'text'"
    ).fetchone()
    assert norm is not None
    assert norm[0] == pytest.approx(float(np.linalg.norm(texts[0])), rel=1e-5)


def test_bad_files_are_failures_and_their_neighbours_are_stored(
    client: Sightline, connection: psycopg.Connection, media: Path
) -> None:
    folder = media / "bad"
    folder.mkdir()
    for n in range(10):
        (folder / f"good-{n}.png").write_bytes(png(100 + n))
    (folder / "cut.png").write_bytes(png(120, (200, 200))[:5000])
    (folder / "words.jpg").write_text("these are words")
    (folder / "empty.png").write_bytes(b"")
    (folder / "gone.png").write_bytes(png(121))
    with psycopg.connect(client.database_url) as lent:  # runs once this commits
        job = client.ingest(folder, collection="bad", lane="bulk", connection=lent)
        (folder / "gone.png").unlink()
    progress = job.wait(timeout=20)
    assert (progress.done, progress.failed) == (10, 4)
    assert set(stored(connection, "bad")) == {f"good-{n}.png" for n in range(10)}
    rows = connection.execute(
        "select external_id, error_class, message, attempt from sightline.failed_items where job_id = %s", (job.job_id,)
    ).fetchall()
    assert {(name, error_class) for name, error_class, _, _ in rows} == {
        ("cut.png", "TruncatedImage"),
        ("words.jpg", "NotAnImage"),
        ("empty.png", "EmptyFile"),
        ("gone.png", "NotFound"),
    }
    assert all(name in message and attempt == 1 for name, _, message, attempt in rows)


def test_the_same_content_is_encoded_once(
    client: Sightline, connection: psycopg.Connection, media: Path, worker: WorkerProcess
) -> None:
    folder = media / "same"
    folder.mkdir()
    for n in range(20):
        (folder / f"{n}.png").write_bytes(png(200 + n % 4))
    before = len(worker.events("message_done"))
    client.ingest(folder, collection="same").wait(timeout=20)
    again: list[Any] = [{"data": png(200 + n), "external_id": f"upload-{n}"} for n in range(4)]
    client.ingest(again, collection="same-again").wait(timeout=20)
    events = worker.wait_for("message_done", at_least=before + 2)[before:]
    assert sum(event["encoded"] for event in events) == 4
    found = stored(connection, "same") | stored(connection, "same-again")
    assert len(found) == 24
    for n in range(20):
        assert (found[f"{n}.png"] == found[f"upload-{n % 4}"]).all()


def test_a_second_delivery_is_harmless(
    client: Sightline, connection: psycopg.Connection, broker: Broker, worker: WorkerProcess
) -> None:
    items: list[Any] = [{"data": png(300 + n), "external_id": str(n)} for n in range(5)]
    client.ingest(items, collection="twice").wait(timeout=20)
    rows = connection.execute("select chunk_id, fence, finished_at from sightline.chunk order by 1").fetchall()
    ids = [row[0] for row in rows]
    broker.push("encode", CHUNKS_TASK, [{"chunk_ids": ids}] * 3 + [{"chunk_ids": [999_999_999]}])
    # The queue is first in, first out, so after this job the duplicates have been taken.
    client.ingest([{"text": "after the duplicates"}], collection="twice").wait(timeout=20)
    assert (
        connection.execute(
            "select chunk_id, fence, finished_at from sightline.chunk where chunk_id = any (%s) order by 1", (ids,)
        ).fetchall()
        == rows
    )


def test_twenty_small_jobs_in_under_three_seconds(client: Sightline) -> None:
    """Kombu before 5.7 runs one message in ten seconds in this pool: the hub is not woken by acks of other threads."""
    began = time.monotonic()
    jobs = [client.ingest([{"text": f"number {n}"}], collection=f"small-{n}") for n in range(20)]
    for job in jobs:
        assert job.wait(timeout=20).done == 1
    took = time.monotonic() - began
    assert took < 3, f"{took:.2f} s"


def test_twenty_messages_in_under_three_seconds(
    client: Sightline, broker: Broker, connection: psycopg.Connection
) -> None:
    """The same for messages that find nothing to do, with no dispatcher between."""
    began = time.monotonic()
    broker.push("encode", CHUNKS_TASK, [{"chunk_ids": [10**9 + n]} for n in range(20)])
    until(lambda: broker.waiting("encode") == 0, 5, pause=0.01)
    assert time.monotonic() - began < 3


def test_malformed_messages_do_not_stop_the_worker(client: Sightline, broker: Broker, settings: Settings) -> None:
    key = settings.key_prefix + "encode"
    broker.redis.lpush(key, b"this is not JSON")
    broker.redis.lpush(key, b'{"body": "W10=", "headers": {"id": "1", "task": "sightline.chunks"}}')
    broker.push("encode", "sightline.no_such_task", [{}])
    broker.push("encode", CHUNKS_TASK, [{"chunk_ids": "nonsense"}, {"no": "ids"}])
    assert client.ingest([{"text": "still alive"}], collection="alive").wait(timeout=30).done == 1


def test_a_wiped_redis_loses_nothing(client: Sightline, broker: Broker, connection: psycopg.Connection) -> None:
    items: list[Any] = [{"data": png(1000 + n, (30, 30)), "external_id": str(n)} for n in range(600)]
    with psycopg.connect(client.database_url) as holding:
        job = client.ingest(items, collection="wiped")
        until(lambda: job.progress().state == "running")
        # Hold one item, so that the job cannot end before Redis has lost its messages.
        held = holding.execute(
            "select from sightline.item where item_id = "
            "(select item_ids[1] from sightline.chunk where job_id = %s and state <> 'done' "
            "order by chunk_id desc limit 1) for update",
            (job.job_id,),
        )
        assert held.rowcount == 1
        broker.redis.flushall()
        holding.rollback()
    progress = job.wait(timeout=30)
    assert (progress.done, progress.failed, progress.skipped) == (600, 0, 0)
    assert len(stored(connection, "wiped")) == 600


def test_a_space_of_another_pool_that_appears_later_is_loaded_then(
    client: Sightline, connection: psycopg.Connection, encoder: Encoder
) -> None:
    make_space(client.database_url, "later", encoder, pool="gpu")
    assert client.ingest([{"text": "a late one"}], collection="late", space="later").wait(timeout=30).done == 1
    call = {"kind": "encode", "space": "later", "inputs": [{"text": "a late one"}]}
    assert client.broker.call("encode.gpu.interactive", call, 10)["space"] == "later"
    states = connection.execute("select models from sightline.worker where stopped_at is null").fetchall()[-1][0]
    assert {state["space"] for state in states if state["state"] == "ready"} == {"tiny", "later"}


def test_a_space_of_another_model_is_refused_by_name(
    client: Sightline, connection: psycopg.Connection, encoder: Encoder, worker: WorkerProcess
) -> None:
    make_space(client.database_url, "foreign", encoder, weights="0" * 64)
    job = client.ingest([{"text": "a foreign one"}], collection="foreign", space="foreign")
    event = worker.wait_for("space_refused")[0]
    assert event["space"] == "foreign"
    assert "weights (sha256): 000000000000 of" in event["reason"]

    def shown() -> list[Any]:
        states = connection.execute("select models from sightline.worker where stopped_at is null").fetchall()[-1][0]
        return [state for state in states if state["state"] == "refused" and "weights" in state["detail"]]

    assert until(shown)[0]["space"] == "foreign"
    worker.wait_for("chunks_left")
    row = connection.execute(
        "select state, attempt, fence from sightline.chunk where job_id = %s", (job.job_id,)
    ).fetchone()
    assert row == ("queued", 0, 0)  # left to a worker that has the model
    connection.execute("update sightline.chunk set state = 'cancelled' where job_id = %s", (job.job_id,))
    connection.execute(
        "update sightline.job set state = 'cancelled', finished_at = now() where job_id = %s", (job.job_id,)
    )
    connection.execute("delete from sightline.chunk where job_id = %s", (job.job_id,))
    connection.execute("delete from sightline.job where job_id = %s", (job.job_id,))


def test_a_worker_that_is_told_to_stop_says_so(
    worker: WorkerProcess, connection: psycopg.Connection, client: Sightline
) -> None:
    """Last in this module: it ends the worker."""
    worker_id = uuid.UUID(worker.events("worker_ready")[0]["worker_id"])
    assert worker.terminate() == 0
    row = connection.execute(
        "select stopped_at is not null, queues from sightline.worker where worker_id = %s", (worker_id,)
    ).fetchone()
    assert row == (True, [])
    assert connection.execute("select count(*) from sightline.leader").fetchone() == (0,)
