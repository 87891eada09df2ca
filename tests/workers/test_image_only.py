"""A model without a text tower, from `space create` to the search: images work, and a text is refused in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg.types.json import Jsonb

from models.encoder import load_encoder
from sightline.broker import Broker
from sightline.client import Sightline
from sightline.errors import CallFailed, RequestRefused, UsageError
from sightline.settings import Settings
from sightline.space import create_space
from tests.models.families.builders import build_dinov2
from tests.workers.conftest import make_space, png
from tests.workers.processes import WorkerProcess, Workers

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def cli(database_url: str, redis_url: str, settings: Settings) -> Cli:
    environment = {
        **os.environ, "SIGHTLINE_DATABASE_URL": database_url, "SIGHTLINE_REDIS_URL": redis_url,
        "SIGHTLINE_KEY_PREFIX": settings.key_prefix, "SIGHTLINE_HOME": str(settings.home),
    }  # fmt: skip

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sightline", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)

    return run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_dinov2(tmp_path_factory.mktemp("models") / "tiny-dino")


@pytest.fixture(scope="module", autouse=True)
def worker(database_url: str, model: Path, cli: Cli, start_worker: Workers) -> WorkerProcess:
    made = cli("space", "create", "dino", "--model", str(model))
    assert (made.returncode, made.stderr) == (0, "")
    assert made.stdout.split(", views ")[1].strip() == "sightline.dino_image"
    encoder = load_encoder(str(model), device="cpu")
    with psycopg.connect(database_url, autocommit=True) as connection:  # as SQL makes it when nobody says better
        connection.execute(
            "select sightline.create_space('deaf', 'tiny-dino', %s, %s)",
            (encoder.dim, Jsonb(encoder.passport.to_dict())),
        )
    return start_worker()


def test_the_space_takes_images_and_finds_them(client: Sightline) -> None:
    assert client.space("dino").modalities == ["image"]
    items: list[Any] = [{"data": png(seed), "external_id": str(seed)} for seed in range(5)]
    assert client.ingest(items, collection="pictures", space="dino").wait(timeout=30).done == 5
    hits = client.search(image=png(3), collection="pictures", space="dino", k=5)
    assert hits[0].external_id == "3"
    assert np.isclose(hits[0].score, 1, atol=1e-3)
    assert len(hits) == 5


def test_a_text_fails_alone_in_an_ingest(client: Sightline) -> None:
    items: list[Any] = [{"text": "a cat", "external_id": "words"}, {"data": png(9), "external_id": "picture"}]
    job = client.ingest(items, collection="mixed", space="dino")
    done = job.wait(timeout=30)
    assert (done.done, done.failed) == (1, 1)
    (failure,) = job.failures()
    assert failure.external_id == "words"
    assert "space dino takes no texts" in failure.message


def test_a_search_by_text_is_refused_before_a_worker_is_asked(client: Sightline) -> None:
    with pytest.raises(
        UsageError, match="space dino takes no text: its model tiny-dino does not encode it; search with an"
    ):
        client.search(text="a cat", space="dino")
    with pytest.raises(RequestRefused, match='space "dino" has no modality "text"'):
        client.search(image=png(3), space="dino", modality="text")


def test_the_command_says_so_in_one_line(cli: Cli) -> None:
    done = cli("search", "a cat", "--space", "dino")
    assert (done.returncode, done.stdout) == (2, "")
    assert "space dino takes no text" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_worker_that_is_asked_directly_says_so_too(broker: Broker) -> None:
    with pytest.raises(
        CallFailed, match="input 0: space dino takes no texts, only images: its model tiny-dino does not"
    ):
        broker.call("encode.interactive", {"kind": "encode", "space": "dino", "inputs": [{"text": "a cat"}]}, 10)


def test_a_space_that_promises_what_its_model_cannot_is_refused(broker: Broker) -> None:
    message = "space deaf is not served by this worker: it takes text items, which tiny-dino does not encode"
    with pytest.raises(CallFailed, match=message):
        broker.call("encode.interactive", {"kind": "encode", "space": "deaf", "inputs": [{"text": "a cat"}]}, 10)


def test_creating_it_again_changes_nothing_even_if_it_was_stored_by_an_older_version(
    client: Sightline, database_url: str, model: Path
) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "update sightline.space set passport = passport - 'towers' - 'modalities' where name = 'dino'"
        )
    create_space(client.database, "dino", str(model))
    other = load_encoder(str(model), device="cpu")
    with pytest.raises(psycopg.errors.DuplicateObject, match=r"weights .* there, other of tiny-dino given"):
        make_space(database_url, "dino", other, weights="other")
