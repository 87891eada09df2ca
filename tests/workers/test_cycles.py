"""A worker that is started and stopped again and again in one process leaves nothing behind."""

from __future__ import annotations

import time
from pathlib import Path

import psycopg
import pytest

from sightline.client import Sightline
from sightline.settings import Settings
from tests.leftovers import LeftOpen, left_open, settled
from workers.service import Service

CYCLES = 6
"""The drill `fifty_starts_and_stops` does more."""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are read from /proc")
def test_no_thread_and_no_socket_outlives_a_worker(
    database_url: str, redis_url: str, settings: Settings, space: str, client: Sightline, connection: psycopg.Connection
) -> None:
    given = Settings(**settings.model_dump() | {"database_url": database_url, "redis_url": redis_url, "device": "cpu"})
    before: LeftOpen = [], 0
    for cycle in range(CYCLES + 1):
        service = Service(given, ["encode"])
        service.start()
        if cycle == 0:  # at work, so that every part was used
            assert (
                client.ingest([{"text": "a word", "external_id": "a"}], collection="cycles").wait(timeout=20).done == 1
            )
        began = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - began < given.drain_seconds
        del service
        if cycle == 0:
            before = left_open()  # with what torch and the libraries make once
        assert settled(before) == before
    rows = connection.execute("select count(*), count(stopped_at) from sightline.worker").fetchone()
    assert rows == (CYCLES + 1, CYCLES + 1)
