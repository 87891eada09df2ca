"""A worker and the folder of its model: what it serves stays what the space's passport says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psycopg
import pytest

from models.encoder import load_encoder
from tests.models.tiny_checkpoints import build_clip, copy_of
from tests.workers.conftest import make_space
from workers import spaces as module
from workers.database import Pool, open_pool
from workers.spaces import Served, SpaceRefused, Spaces

TEXT = "a photo of a red cube"


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    return copy_of(checkpoint, tmp_path / "model")


@pytest.fixture
def other(tmp_path: Path) -> bytes:
    return (build_clip(tmp_path / "other", seed=9) / "model.safetensors").read_bytes()


@pytest.fixture
def pool(database_url: str) -> Iterator[Pool]:
    opened = open_pool(database_url, 2)
    yield opened
    opened.close()


@pytest.fixture
def worker(pool: Pool) -> Iterator[Spaces]:
    opened = Spaces(pool, ["encode"], "cpu")
    yield opened
    opened.close()


def vector(served: Served) -> np.ndarray:
    return served.engine.submit("text", [served.encoder.prepare_text(TEXT)])[0].result(20)


def test_a_folder_that_changes_under_a_worker_changes_nothing_until_it_is_another_space(
    folder: Path, other: bytes, database_url: str, pool: Pool, worker: Spaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = (folder / "model.safetensors").read_bytes()
    make_space(database_url, "folded", load_encoder(str(folder), device="cpu"))
    served = worker.find("folded").result(60)
    before = vector(served)
    with (folder / "model.safetensors").open("r+b") as file:
        file.write(other)  # in place: the inode that was loaded

    assert np.array_equal(vector(served), before)
    assert worker.find("folded").result(60) is served

    make_space(database_url, "unfolded", load_encoder(str(folder), device="cpu"))
    changed = worker.find("unfolded").result(60)
    assert np.abs(vector(changed) - before).max() > 0.1
    assert np.array_equal(vector(served), before)

    monkeypatch.setattr(module, "RETRY_SECONDS", 0.0)
    restarted = Spaces(pool, ["encode"], "cpu")
    said = (
        rf"space folded is not served by this worker: its passport differs from that of {folder} here: "
        r"weights \(sha256\): [0-9a-f]{12} of model in the space, [0-9a-f]{12} of model in the model. Bring back the model"
    )
    with pytest.raises(SpaceRefused, match=said):
        restarted.find("folded").result(60)
    (state,) = restarted.describe()
    assert (state["space"], state["state"]) == ("folded", "refused")
    (folder / "model.safetensors").write_bytes(sound)
    assert np.array_equal(vector(restarted.find("folded").result(60)), before)  # without a restart
    restarted.close()


def test_what_differs_is_said_in_words(folder: Path, database_url: str, worker: Spaces) -> None:
    encoder = load_encoder(str(folder), device="cpu")
    make_space(database_url, "shorter", encoder, context_length=9, pooling="mean of positions", dtype="bfloat16")
    with pytest.raises(
        SpaceRefused,
        match=r"here: context length in tokens: 9 in the space, 16 in the model; pooling: mean of positions in the space",
    ):
        worker.find("shorter").result(60)


def test_a_space_without_a_passport_or_of_another_dimension_is_refused(
    folder: Path, database_url: str, worker: Spaces
) -> None:
    encoder = load_encoder(str(folder), device="cpu")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("select sightline.create_space('bare', %s, 24)", (str(folder),))
    make_space(database_url, "wide", encoder)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("update sightline.space set dim = 25 where name = 'wide'")
    with pytest.raises(
        SpaceRefused, match="made without the passport of a model; make it with `sightline space create`"
    ):
        worker.find("bare").result(60)
    with pytest.raises(SpaceRefused, match="dimension: 25 in the space, 24 in the model"):
        worker.find("wide").result(60)
