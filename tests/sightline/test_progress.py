"""How fast work goes, what waits and for whom: in SQL, in the client and on the command line."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from sightline import pulse
from sightline.client import Sightline
from sightline.errors import PolicyRefused
from tests.sightline.cli.conftest import Cli, cli, given, logging_restored  # noqa: F401 - fixtures
from tests.workers.processes import until

WORKER = uuid.uuid4()


@pytest.fixture(scope="module", autouse=True)
def _space(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("select sightline.create_space('toy', 'points', 4)")
        connection.execute("select sightline.alias_space('current', 'toy')")


def submit(connection: psycopg.Connection, count: int) -> int:
    row = connection.execute(
        "select sightline.submit('encode', '{}', %s, (select jsonb_agg(jsonb_build_object('text', 't' || i)) "
        "from generate_series(1, %s) i))",
        (uuid.uuid4().hex, count),
    ).fetchone()
    assert row is not None
    return int(row[0])


def work(connection: psycopg.Connection, job_id: int, seconds: int, failed: int = 0) -> None:
    """Do the first chunk that waits of a job, as if it had taken so long."""
    connection.execute(
        "with c as (select c.* from sightline.claim(array(select min(chunk_id) from sightline.chunk "
        "where job_id = %(job)s and state = 'queued'), %(worker)s) c) "
        "select sightline.finish_chunks(%(worker)s, array_agg(chunk_id), array_agg(fence), "
        "array_agg(cardinality(item_ids) - %(failed)s), array_agg(%(failed)s), array_agg(0), array_agg(0)) from c",
        {"job": job_id, "worker": WORKER, "failed": failed},
    )
    connection.execute(
        "update sightline.chunk set claimed_at = finished_at - make_interval(secs => %s) "
        "where job_id = %s and finished_at is not null",
        (seconds, job_id),
    )


def row(connection: psycopg.Connection, query: str, *params: object) -> dict[str, Any]:
    with connection.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(query, params).fetchone()
    assert found is not None
    return found


def test_rate_and_time_left_are_those_of_the_last_minute(client: Sightline, connection: psycopg.Connection) -> None:
    job_id = submit(connection, 192)
    before = client.job(job_id).progress()
    assert (before.pending, before.items_per_second, before.seconds_left, before.silent_seconds) == (192, 0, None, None)
    assert before.oldest_seconds is not None
    work(connection, job_id, 16, failed=4)
    now = client.job(job_id).progress()
    assert (now.done, now.failed, now.pending) == (60, 4, 128)
    assert now.items_per_second == pytest.approx(4, rel=0.3)
    assert now.seconds_left == pytest.approx(32, rel=0.3)
    queue = row(connection, "select * from sightline.queue_status where queue = 'encode'")
    assert (queue["queued_items"], queue["done_last_minute"], queue["failed_last_minute"]) == (128, 60, 4)
    assert queue["items_per_second"] == pytest.approx(4, rel=0.3)
    assert queue["seconds_left"] == pytest.approx(32, rel=0.3)
    connection.execute(
        "update sightline.chunk set claimed_at = now() - interval '1 h', finished_at = now() - interval '5 min' where finished_at is not null"
    )
    stalled = client.job(job_id).progress()
    assert (stalled.items_per_second, stalled.seconds_left) == (0, None)
    client.job(job_id).cancel()


def test_a_job_that_is_over_has_the_rate_of_all_of_it(client: Sightline, connection: psycopg.Connection) -> None:
    job_id = submit(connection, 64)
    work(connection, job_id, 8)
    connection.execute("select sightline.close_job(%s)", (job_id,))
    now = client.job(job_id).progress()
    assert now.finished
    assert now.items_per_second == pytest.approx(8, rel=0.3)
    assert (now.seconds_left, now.oldest_seconds, now.silent_seconds) == (None, None, None)


def test_what_finished_in_the_last_minute_is_found_by_an_index(connection: psycopg.Connection) -> None:
    with connection.transaction():
        connection.execute("set local enable_seqscan = off")
        plan = connection.execute("explain select * from sightline.queue_status").fetchall()
    assert any("chunk_finished" in line for (line,) in plan)


def test_a_slow_submitter_gives_signs_of_life(
    client: Sightline, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulse, "PULSE_SECONDS", 0.05)

    def fed_at() -> Any:
        return row(connection, "select fed_at from sightline.job where sealed_at is null")["fed_at"]

    def slow() -> Iterator[dict[str, str]]:
        began = fed_at()
        until(lambda: fed_at() > began, 5)
        yield {"text": "late", "external_id": "late"}

    job = client.ingest(slow(), collection="slow")
    assert job.progress().silent_seconds is None
    job.cancel()


def test_a_job_whose_submitter_died_is_told_and_closed(
    client: Sightline,
    connection: psycopg.Connection,
    given: Cli,  # noqa: F811
) -> None:
    opened = connection.execute("select (sightline.open_job('encode', '{}', 'dead')).job_id").fetchone()
    assert opened is not None
    job_id = int(opened[0])
    (listed,) = given("jobs", "--open", "--json").data
    assert (listed["job_id"], listed["submitter"]) == (job_id, "open")
    refused = given("seal", str(job_id))
    assert refused.code == 4
    assert "gave a sign of life" in refused.err
    with pytest.raises(PolicyRefused):
        client.job(job_id).seal()
    connection.execute("update sightline.job set fed_at = now() - interval '75 s' where job_id = %s", (job_id,))
    shown = given("jobs", "--open")
    assert "silent 75 s" in shown.out
    assert f"sightline seal {job_id}" in shown.err
    sealed = given("seal", str(job_id))
    assert (sealed.code, sealed.out) == (0, f"job {job_id} takes no more items: 0 were submitted, 0 are pending\n")
    assert client.job(job_id).progress().state == "done"
    assert (client.job(job_id).progress().error or "").startswith("sealed by ")
    assert given("seal", str(job_id)).out == f"job {job_id} was sealed already\n"


def test_watch_on_a_terminal_draws_the_table_again(
    client: Sightline, connection: psycopg.Connection, database_url: str, redis_url: str
) -> None:
    job_id = submit(connection, 128)
    environment = os.environ | {
        "SIGHTLINE_DATABASE_URL": database_url, "SIGHTLINE_REDIS_URL": redis_url, "TERM": "xterm", "COLUMNS": "200",
    }  # fmt: skip
    command = [sys.executable, "-c", "from sightline.cli import main; main()", "jobs", "--watch", "--limit", "1"]
    screen, terminal = os.openpty()
    with subprocess.Popen(command, env=environment, stdout=terminal, stderr=terminal) as watching:
        os.close(terminal)
        shown = _read_until(screen, "queued")
        work(connection, job_id, 8)
        shown += _read_until(screen, "running")
        watching.send_signal(signal.SIGINT)
        assert watching.wait(20) == 0
    os.close(screen)
    assert "\x1b[" in shown  # the cursor goes back up
    assert "oldest" in shown  # the queues stand below the jobs


def test_status_on_a_terminal_is_a_live_screen(
    client: Sightline, connection: psycopg.Connection, database_url: str, redis_url: str
) -> None:
    environment = os.environ | {
        "SIGHTLINE_DATABASE_URL": database_url, "SIGHTLINE_REDIS_URL": redis_url, "TERM": "xterm", "COLUMNS": "200",
    }  # fmt: skip
    command = [sys.executable, "-c", "from sightline.cli import main; main()", "status", "--watch"]
    screen, terminal = os.openpty()
    with subprocess.Popen(command, env=environment, stdout=terminal, stderr=terminal) as watching:
        os.close(terminal)
        shown = _read_until(screen, "no worker is alive")
        shown += _read_until(screen, "cost_s")
        client.pause(queue="encode")
        shown += _read_until(screen, "yes")
        client.resume(queue="encode")
        watching.send_signal(signal.SIGINT)
        assert watching.wait(20) == 0
    os.close(screen)
    assert "\x1b[" in shown


def _read_until(screen: int, word: str) -> str:
    """What the terminal shows until this word has come."""
    shown = ""
    while word not in shown:
        assert select.select([screen], [], [], 20)[0], f"{word!r} has not come: {shown}"
        shown += os.read(screen, 65536).decode(errors="replace")
    return shown


def test_watch_into_a_pipe_prints_lines_and_ends_with_its_reader(
    client: Sightline, connection: psycopg.Connection, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    job_id = submit(connection, 128)
    environment = os.environ | {"SIGHTLINE_DATABASE_URL": database_url, "SIGHTLINE_REDIS_URL": redis_url}
    command = [sys.executable, "-c", "from sightline.cli import main; main()", "jobs", "--watch", "--limit", "1"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        first = watching.stdout.readline()
        assert first.endswith(f"job {job_id} queued: 0 of 128 done, 128 pending, 0 items/s\n")
        work(connection, job_id, 8)
        assert f"job {job_id} running: 64 of 128 done, 64 pending, " in watching.stdout.readline()
        watching.stdout.close()
        work(connection, job_id, 8)
        assert watching.wait(20) == 0
        assert watching.stderr.read() == ""
