"""The whole system: a worker process with the bundled model on a database of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from models.scenes.export import export_scenes
from sightline.client import Sightline
from sightline.services import Services, running_services
from sightline.settings import Settings


@pytest.fixture(scope="module")
def environment(database_url: str, redis_url: str, settings: Settings) -> dict[str, str]:
    """What a user of these servers has in the environment."""
    return {
        "SIGHTLINE_DATABASE_URL": database_url,
        "SIGHTLINE_REDIS_URL": redis_url,
        "SIGHTLINE_KEY_PREFIX": settings.key_prefix,
        "SIGHTLINE_LEASE_SECONDS": "3",
    }


@pytest.fixture(scope="module")
def services(environment: dict[str, str], settings: Settings) -> Iterator[Services]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        given = settings.model_copy(
            update={
                "database_url": SecretStr(environment["SIGHTLINE_DATABASE_URL"]),
                "redis_url": SecretStr(environment["SIGHTLINE_REDIS_URL"]),
            }
        )
        with running_services(given) as running:
            yield running


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 120 rendered scenes that the bundled model has never seen, and their items.jsonl."""
    folder = tmp_path_factory.mktemp("scenes")
    export_scenes(folder, 120, size=96)
    return folder


@pytest.fixture
def sl(services: Services, client: Sightline) -> Sightline:
    """A client of the running system."""
    return client
