"""`sightline worker`: a child that dies is replaced and its work goes on at once; signals reach it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from sightline.client import Sightline
from sightline.settings import Settings
from tests.workers.processes import until
from tests.workers.test_drills import chunks, every_item_is_stored_once, go, running, submit, uploads_blocked

LEASE = 300


@pytest.mark.timeout(400)
@pytest.mark.usefixtures("space")
def test_work_of_a_dead_child_does_not_wait_for_its_lease_and_a_second_signal_hands_all_back(
    client: Sightline, connection: psycopg.Connection, database_url: str, redis_url: str, settings: Settings,
    media: Path, tmp_path: Path,
) -> None:  # fmt: skip
    environment = os.environ | {
        "SIGHTLINE_DATABASE_URL": database_url, "SIGHTLINE_REDIS_URL": redis_url, "SIGHTLINE_DEVICE": "cpu",
        "SIGHTLINE_KEY_PREFIX": settings.key_prefix, "SIGHTLINE_LEASE_SECONDS": str(LEASE),
        "SIGHTLINE_DRAIN_SECONDS": "60", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    command = [sys.executable, "-c", "from sightline.cli import main; main()", "worker"]
    log = tmp_path / "log"
    with log.open("wb") as output, subprocess.Popen(command, env=environment, stdout=output, stderr=output) as parent:
        try:
            job = submit(client, "orphaned", 60)
            with uploads_blocked(client):
                go(connection, job)
                until(lambda: running(connection, job), 150)
                row = connection.execute("select pid from sightline.worker where stopped_at is null").fetchone()
                assert row is not None
                os.kill(row[0], signal.SIGKILL)
                until(lambda: "ended by SIGKILL; starting it again in 0.5 s" in log.read_text(), 20)
            job.wait(timeout=LEASE / 3)  # less than the lead of the dead one would last
            every_item_is_stored_once(connection, job, 60)

            job = submit(client, "hurried", 60)
            with uploads_blocked(client):
                go(connection, job)
                until(lambda: running(connection, job), 60)
                parent.send_signal(signal.SIGTERM)
                until(lambda: "worker_stopping" in log.read_text())
                began = time.monotonic()
                parent.send_signal(signal.SIGTERM)
                assert parent.wait(30) == 0
                assert time.monotonic() - began < 30
                assert chunks(connection, job) == [("queued", 0)]
        finally:
            parent.kill()
    rows = connection.execute("select count(*) from sightline.worker where stopped_at is null").fetchone()
    assert rows == (1,)  # the one that was killed
