"""Jobs end to end: images and texts in, vectors in Postgres out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from models.encoder import Encoder
from sightline.client import Sightline
from tests.workers.conftest import StartWorker, WorkerProcess, png

pytestmark = pytest.mark.usefixtures("ledger_adds_up")


@pytest.fixture(scope="module", autouse=True)
def worker(space: str, start_worker: StartWorker) -> WorkerProcess:
    return start_worker()


def stored(connection: psycopg.Connection, collection: str) -> dict[str, np.ndarray]:
    rows = connection.execute(
        "select i.external_id, e.vec::vector(24)::real[] from sightline.embedding e join sightline.item i using (item_id) "
        "join sightline.collection c using (collection_id) where c.name = %s",
        (collection,),
    ).fetchall()
    return {name: np.array(vector, np.float32) for name, vector in rows}


def test_images_and_texts_become_the_models_own_vectors(
    client: Sightline, connection: psycopg.Connection, media: Path, encoder: Encoder
) -> None:
    (media / "one.png").write_bytes(png(1))
    items: list[Any] = [
        {"path": media / "one.png", "external_id": "file"},
        {"data": png(2), "external_id": "upload"},
        {"text": "a photo of a red cube", "external_id": "text"},
    ]
    job = client.ingest(items, collection="mixed")
    progress = job.wait(timeout=20)
    assert (progress.done, progress.failed) == (3, 0)
    assert set(stored(connection, "mixed")) == {"file", "upload", "text"}
