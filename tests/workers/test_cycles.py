"""A worker that is started and stopped again and again in one process leaves nothing behind."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
from pathlib import Path

import psycopg
import pytest

from sightline.client import Sightline
from sightline.settings import Settings
from tests.workers.processes import until
from workers.service import Service

CYCLES = int(os.environ.get("SIGHTLINE_TEST_CYCLES", "6"))
"""`make drills` does fifty."""


def left_open() -> tuple[list[str], int]:
    """Names of the living threads, and how many sockets are open."""
    gc.collect()
    sockets = 0
    for handle in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # of this very loop
            sockets += str(handle.readlink()).startswith("socket:")
    return sorted(thread.name for thread in threading.enumerate()), sockets


def settle(state: object) -> None:
    """Give what is ending a few seconds."""
    with contextlib.suppress(AssertionError):
        until(lambda: left_open() == state, 5)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are read from /proc")
def test_no_thread_and_no_socket_outlives_a_worker(
    database_url: str, redis_url: str, settings: Settings, space: str, client: Sightline, connection: psycopg.Connection
) -> None:
    given = Settings(**settings.model_dump() | {"database_url": database_url, "redis_url": redis_url, "device": "cpu"})
    before: tuple[list[str], int] = [], 0
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
        settle(before)
        assert left_open() == before
    rows = connection.execute("select count(*), count(stopped_at) from sightline.worker").fetchone()
    assert rows == (CYCLES + 1, CYCLES + 1)
