"""Worker processes against real servers, and what the tests ask of them."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from PIL import Image
from psycopg.types.json import Jsonb

from models.encoder import Encoder, load_encoder
from sightline.broker import Broker
from sightline.client import Sightline
from sightline.settings import Settings
from tests.models.tiny_checkpoints import build_clip
from tests.workers.processes import Workers


def png(seed: int, size: tuple[int, int] = (40, 40)) -> bytes:
    """A picture of its own for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(autouse=True, scope="module")
def _pillow_limit() -> Iterator[None]:
    """An ingress limits Pillow for the whole process; other modules have the limit that they had."""
    before = Image.MAX_IMAGE_PIXELS
    yield
    Image.MAX_IMAGE_PIXELS = before


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_clip(tmp_path_factory.mktemp("models") / "tiny-clip")


@pytest.fixture(scope="session")
def encoder(checkpoint: Path) -> Encoder:
    return load_encoder(str(checkpoint), device="cpu")


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="module")
def settings(database_url: str, media: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """As in the whole suite, and with files under `media` left where they are."""
    prefix = f"{database_url.rsplit('/', 1)[1].split('?', maxsplit=1)[0]}:"
    return Settings(home=tmp_path_factory.mktemp("home"), key_prefix=prefix, media_roots=[media])


@pytest.fixture(scope="module")
def broker(redis_url: str, settings: Settings) -> Iterator[Broker]:
    opened = Broker(redis_url, settings.key_prefix)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def space(database_url: str, encoder: Encoder) -> str:
    """A space of the tiny model, the current one."""
    make_space(database_url, "tiny", encoder)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("select sightline.alias_space('current', 'tiny')")
    return "tiny"


def make_space(database_url: str, name: str, encoder: Encoder, pool: str | None = None, **other: Any) -> None:
    passport = encoder.passport.to_dict() | other
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "select sightline.create_space(%s, %s, %s, %s, pool => %s, modalities => %s)",
            (name, encoder.passport.model, encoder.dim, Jsonb(passport), pool, list(encoder.modalities)),
        )


@pytest.fixture(scope="module")
def start_worker(
    database_url: str, redis_url: str, settings: Settings, media: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Workers]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SIGHTLINE_")}
    environment |= {
        "SIGHTLINE_DATABASE_URL": database_url,
        "SIGHTLINE_REDIS_URL": redis_url,
        "SIGHTLINE_KEY_PREFIX": settings.key_prefix,
        "SIGHTLINE_MEDIA_ROOTS": json.dumps([str(media)]),
        "SIGHTLINE_LEASE_SECONDS": "2",
        "SIGHTLINE_DRAIN_SECONDS": "8",
        "SIGHTLINE_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    workers = Workers(environment, tmp_path_factory.mktemp("workers"))
    yield workers
    workers.kill_all()


@pytest.fixture
def ledger_adds_up(client: Sightline) -> Iterator[None]:
    """After the test: every job is over, each of its items is counted once, and nothing is left in flight."""
    yield
    with client.database.transaction() as connection:
        wrong = connection.execute(
            "select job_id, state, submitted, done, failed, skipped, pending from sightline.job_progress "
            "where state <> 'done' or submitted <> done + failed + skipped or pending <> 0"
        ).fetchall()
        assert wrong == []
        assert connection.execute("select count(*) from sightline.chunk where state <> 'done'").fetchone() == (0,)
