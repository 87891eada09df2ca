"""`sightline worker --processes 3`: three processes of one command share the work, and say of themselves what is true."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sightline.client import Sightline
from sightline.crew import devices_of, environments
from sightline.errors import ServiceMissing, UsageError
from sightline.settings import Settings
from tests.workers.processes import until
from workers import probe

CLI = [sys.executable, "-c", "from sightline.cli import main; main()"]
TWO_GPUS = {"devices": [{"name": "one"}, {"name": "two"}]}


def three_free_ports() -> int:
    """The first of three ports in a row that nobody has."""
    for first in range(20000 + os.getpid() % 5000, 30000, 3):
        try:
            for port in range(first, first + 3):
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return first
    raise AssertionError("no ports")


def samples(port: int) -> dict[tuple[str, ...], float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as page:
        families = text_string_to_metric_families(page.read().decode())
        return {(s.name, *sorted(s.labels.values())): s.value for family in families for s in family.samples}


@pytest.fixture(scope="module")
def first_port() -> int:
    return three_free_ports()


@pytest.fixture(scope="module")
def crew(
    space: str, database_url: str, redis_url: str, settings: Settings, first_port: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:  # fmt: skip
    environment = os.environ | {
        "SIGHTLINE_DATABASE_URL": database_url, "SIGHTLINE_REDIS_URL": redis_url,
        "SIGHTLINE_KEY_PREFIX": settings.key_prefix, "SIGHTLINE_METRICS_PORT": str(first_port),
        "SIGHTLINE_LEASE_SECONDS": "6", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    log = tmp_path_factory.mktemp("crew") / "log"
    command = [*CLI, "worker", "--processes", "3", "--device", "cpu", "--concurrency", "1"]
    with log.open("wb") as output, subprocess.Popen(command, env=environment, stdout=output, stderr=output) as parent:
        yield parent, log
        parent.kill()


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("crew")
def test_three_processes_share_the_work_and_one_of_them_speaks_for_all(
    client: Sightline, connection: psycopg.Connection, first_port: int
) -> None:
    ports = range(first_port, first_port + 3)
    alive = "select pid, slots from sightline.worker where stopped_at is null and queues <> '{}'"
    until(lambda: len(connection.execute(alive).fetchall()) == 3, 150)
    assert {slots for _, slots in connection.execute(alive)} == {1}

    count = 1536
    job = client.ingest([{"text": f"shared {n}"} for n in range(count)], collection="shared")
    job.wait(timeout=60)
    done = [samples(port).get(("sightline_items_total", "done"), 0) for port in ports]
    assert sum(done) == count
    assert all(done), done

    leaders = until(lambda: [port for port in ports if samples(port)["sightline_dispatcher_leads",] == 1], 20)
    assert len(leaders) == 1
    tells = [port for port in ports if ("sightline_queue_cost_seconds", "encode") in samples(port)]
    assert tells == leaders
    assert until(lambda: samples(leaders[0])["sightline_queue_workers", "encode"] == 3, 20)
    paces = connection.execute(
        "select paces from sightline.worker where paces <> '{}' and stopped_at is null"
    ).fetchall()
    assert all(0 < seconds < 5 for (told,) in paces for seconds in told.values())
    assert paces

    # What is held up shows as age and cost, and is gone from them when it is paused.
    client.pause(queue="encode")
    client.submit("encode", {}, collection="held", items=[{"text": f"held {n}"} for n in range(64)])
    assert connection.execute(
        "select age_seconds, cost_seconds from sightline.queue_load where queue = 'encode'"
    ).fetchall() == [(0, 0)]
    client.resume(queue="encode")


@pytest.mark.timeout(120)
def test_one_that_dies_is_replaced_the_others_go_on_and_a_signal_ends_all(
    crew: tuple[subprocess.Popen[bytes], Path], connection: psycopg.Connection, first_port: int,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    parent, log = crew
    pids = (
        "select pid from sightline.worker where stopped_at is null and seen_at > clock_timestamp() - interval '1 min'"
    )
    before = {pid for (pid,) in connection.execute(pids)}
    os.kill(min(before), signal.SIGKILL)
    until(lambda: len({pid for (pid,) in connection.execute(pids)} - before) == 1, 60)
    for port in range(first_port, first_port + 3):
        monkeypatch.setenv("SIGHTLINE_METRICS_PORT", str(port))
        until(lambda: probe.main([]) == 0, 30)
    assert '{"alive": true}' in capsys.readouterr().out
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(40) == 0
    assert len(re.findall("worker_stopped", log.read_text())) == 3
    assert probe.main(["/readyz"]) == 1
    assert "no answer from 127.0.0.1" in capsys.readouterr().out


def test_a_probe_without_a_port_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIGHTLINE_METRICS_PORT", raising=False)
    assert probe.main([]) == 1
    assert "SIGHTLINE_METRICS_PORT is not set" in capsys.readouterr().out


def test_gpus_are_named_by_number_or_all_of_them() -> None:
    assert devices_of("all", TWO_GPUS) == devices_of("0, 1", TWO_GPUS) == ["cuda:0", "cuda:1"]
    assert devices_of("1,1", TWO_GPUS) == ["cuda:1", "cuda:1"]
    with pytest.raises(ServiceMissing, match="no GPU 2 here, only 0 to 1"):
        devices_of("0,2", TWO_GPUS)
    with pytest.raises(ServiceMissing, match="sees no GPU here"):
        devices_of("all", {"devices": []})
    for wrong in ("every", "", "-1", "0,"):
        with pytest.raises(UsageError, match="expected all, or numbers"):
            devices_of(wrong, TWO_GPUS)


def test_each_process_has_a_port_and_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 9)
    found = environments(Settings(metrics_port=9100), ["cuda:0", "cuda:1"])
    assert found == [
        {"SIGHTLINE_METRICS_PORT": "9100", "OMP_NUM_THREADS": "4"},
        {"SIGHTLINE_METRICS_PORT": "9101", "OMP_NUM_THREADS": "4"},
    ]
    assert environments(Settings(metrics_port=0), ["cpu"]) == [{}]  # 0 takes a free one each
    with pytest.raises(UsageError, match="2 processes take as many ports"):
        environments(Settings(metrics_port=65535), ["cpu", "cpu"])
