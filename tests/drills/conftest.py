"""The ledger and Redis of the checker's own tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sightline.broker import Broker
from sightline.settings import Settings


@pytest.fixture(scope="module")
def broker(redis_url: str, settings: Settings) -> Iterator[Broker]:
    opened = Broker(redis_url, settings.key_prefix)
    yield opened
    opened.close()
