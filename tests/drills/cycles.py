"""Workers that are started and stopped again and again in one process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psycopg

from tests.drills.catalogue import drill
from tests.drills.stage import Report, Stage
from tests.leftovers import LeftOpen, left_open, settled
from tests.workers.processes import until

CYCLES = 50


@drill()
def fifty_starts_and_stops(stage: Stage) -> Report:
    """A worker is started and stopped fifty times in one process: no thread and no socket is left."""
    job = stage.submit(64)
    stage.fault()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.drills.cycles"], cwd=Path(__file__).parents[2], env=stage.environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    stage.callback(process.kill)
    told, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors[-2000:]
    states = [json.loads(line) for line in told.splitlines()]
    assert len(states) == CYCLES
    assert states[-1] == states[0], f"open after the first stop: {states[0]}; after the last: {states[-1]}"
    stage.recovered(lambda: job.progress().finished, 600)
    assert stage.value("select count(*) from sightline.worker where stopped_at is not null") == CYCLES
    return stage.settle(job)


def main() -> None:
    """Start and stop workers; print what is open after each stop, once it has settled."""
    from sightline.connection import service_urls
    from sightline.settings import Settings
    from workers.logs import configure_logs
    from workers.service import Service

    configure_logs("warning")
    url, _ = service_urls(Settings(), None, None)
    first: LeftOpen | None = None
    for _ in range(CYCLES):
        service = Service(Settings(), ["encode"])
        service.start()
        if first is None:  # at work, so that every part was used
            until(lambda: _is_over(url), 60)
        assert service.stop() == 0
        del service
        first = first or left_open()
        sys.stdout.write(json.dumps(settled(first)) + "\n")


def _is_over(url: str) -> bool:
    with psycopg.connect(url) as connection:
        return connection.execute("select from sightline.job where finished_at is null").rowcount == 0


if __name__ == "__main__":
    main()
