"""A client whose Postgres is killed and comes back."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sightline.client import Sightline
from sightline.embedded import EmbeddedStack
from sightline.errors import UsageError
from sightline.item import Item
from sightline.job import JobProgress
from sightline.migrate import migrate
from sightline.settings import Settings

WARM = 4


@pytest.fixture
def own_stack() -> Iterator[EmbeddedStack]:
    """A stack of its own: the one of the test run must not be killed."""
    with tempfile.TemporaryDirectory(prefix="sightline-outage-") as folder:
        Path(folder).chmod(0o755)
        with EmbeddedStack(Path(folder) / "home", durable=False) as running:
            migrate(running.database_url)
            yield running


def kill_postgres(stack: EmbeddedStack) -> None:
    assert stack.info is not None
    pid = int((stack.info.data / "postmaster.pid").read_text().splitlines()[0])
    os.kill(pid, signal.SIGKILL)


def test_every_call_after_a_restart_succeeds_and_a_wait_goes_on(own_stack: EmbeddedStack) -> None:
    with Sightline(own_stack.database_url, own_stack.redis_url, settings=Settings()) as client:
        with client.database.transaction() as connection:
            connection.execute("select sightline.create_space('toy', 'points', 4)")
            connection.execute("select sightline.alias_space('current', 'toy')")
        job = client.ingest([Item(text="a")], collection="c")
        together = threading.Barrier(WARM)

        def warm() -> None:
            with client.database.transaction() as connection:
                connection.execute("select 1")
                together.wait(10)

        threads = [threading.Thread(target=warm) for _ in range(WARM)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        ended: list[JobProgress] = []
        waiter = threading.Thread(target=lambda: ended.append(job.wait(timeout=60)))
        waiter.start()
        kill_postgres(own_stack)
        while not own_stack.heal():
            pass
        for _ in range(WARM + 1):  # one for each connection that the pool held, and one more
            assert [space.name for space in client.spaces()] == ["toy"]
        with client.database.transaction() as connection:
            connection.execute("update sightline.chunk set state = 'done', n_done = 1, finished_at = now()")
            connection.execute("select sightline.close_job(%s)", (job.job_id,))
        waiter.join(60)
        assert [(progress.state, progress.done) for progress in ended] == [("done", 1)]


def test_a_closed_client_says_so(database_url: str, redis_url: str, settings: Settings) -> None:
    with Sightline(database_url, redis_url, settings=settings) as client:
        assert client.spaces() == []
    with pytest.raises(UsageError, match="this client is closed"):
        client.spaces()
