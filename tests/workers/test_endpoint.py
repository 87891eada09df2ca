"""The worker's pages for Kubernetes and Prometheus: red with a reason whenever it cannot do its work."""

from __future__ import annotations

import json
import os
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sightline.broker import Broker
from sightline.client import Sightline
from sightline.errors import ServiceMissing
from tests.workers.processes import WorkerProcess, Workers, until
from workers.endpoint import Endpoint
from workers.readiness import Readiness


def get(port: int, path: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
            status, body = answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            status, body = refused.code, refused.read().decode()
    return status, body if path == "/metrics" else json.loads(body)


@pytest.fixture
def troubles() -> dict[str, list[str]]:
    return {"one": [], "two": []}


@pytest.fixture
def endpoint(troubles: dict[str, list[str]]) -> Iterator[Endpoint]:
    opened = Endpoint("127.0.0.1", 0, Readiness({name: lambda name=name: troubles[name] for name in troubles}))
    yield opened
    opened.close()


def test_ready_is_green_until_a_part_says_what_is_wrong(endpoint: Endpoint, troubles: dict[str, list[str]]) -> None:
    assert get(endpoint.port, "/livez") == (200, {"alive": True})
    assert get(endpoint.port, "/readyz") == get(endpoint.port, "/healthz") == (200, {"ready": True, "reasons": []})
    troubles["two"] += ["it is\n broken", "twice"]
    reasons = [{"part": "two", "reason": "it is broken"}, {"part": "two", "reason": "twice"}]
    assert get(endpoint.port, "/readyz") == (503, {"ready": False, "reasons": reasons})
    assert get(endpoint.port, "/livez")[0] == 200
    assert get(endpoint.port, "/elsewhere")[0] == 404


def test_a_part_that_cannot_be_asked_is_a_reason() -> None:
    def check() -> list[str]:
        raise ConnectionError("refused")

    assert Readiness({"redis": check}).reasons() == [{"part": "redis", "reason": "ConnectionError: refused"}]


def test_a_port_that_is_taken_is_an_error_that_says_what_to_do(endpoint: Endpoint) -> None:
    with pytest.raises(
        ServiceMissing,
        match=rf"127\.0\.0\.1:{endpoint.port}: Address already in use; choose another SIGHTLINE_METRICS_PORT",
    ):
        Endpoint("127.0.0.1", endpoint.port, Readiness({}))


@pytest.fixture(scope="module")
def worker(space: str, start_worker: Workers) -> WorkerProcess:
    return start_worker(metrics_port=0)


@pytest.fixture(scope="module")
def port(worker: WorkerProcess) -> int:
    return int(worker.events("metrics_served")[0]["port"])


def test_a_worker_at_work_is_ready_and_has_measured_every_stage(
    worker: WorkerProcess, port: int, client: Sightline, broker: Broker
) -> None:
    assert get(port, "/readyz") == (200, {"ready": True, "reasons": []})
    items = [{"text": f"text {n}"} for n in range(30)] + [{"data": b"no image"}]
    client.ingest(items, collection="measured").wait(timeout=30)
    for _ in range(2):
        broker.call("encode.interactive", {"kind": "encode", "space": "tiny", "inputs": [{"text": "a"}]}, 10.0)
    status, page = get(port, "/metrics")
    assert status == 200
    found = {(sample.name, *sorted(sample.labels.values())): sample.value
             for family in text_string_to_metric_families(page) for sample in family.samples}  # fmt: skip
    assert found["sightline_queue_seconds_count", "bulk", "text"] == 30
    assert found["sightline_queue_seconds_count", "interactive", "text"] == 1
    assert found["sightline_cache_hits_items_total",] == 1
    assert found["sightline_batch_size_items_sum", "text", "tiny"] == 31
    for name in ("forward_seconds_count", "collate_seconds_count", "batch_cost_seconds_count"):
        assert found[f"sightline_{name}", "text", "tiny"] >= 2
    assert found["sightline_budget_seconds", "text", "tiny"] >= 0.1
    assert found["sightline_drift_distance", "tiny"] < 1e-3
    assert found["sightline_items_total", "done"] == 30
    assert found["sightline_items_total", "failed"] == found["sightline_failures_total", "NotAnImage"] == 1
    assert found["sightline_in_flight_chunks",] == 0
    assert found["sightline_dispatcher_leads",] in (0, 1)  # it looks every few seconds
    (told,) = worker.events("items_with_errors")
    assert told["items"][0].keys() == {"job_id", "chunk_id", "item_id", "error_class", "attempt"}
    assert found["process_resident_memory_bytes",] > 2**20


def test_a_worker_without_a_space_is_not_ready(start_worker: Workers) -> None:
    worker = start_worker("--queues", "encode.nobody", metrics_port=0)
    status, answer = get(int(worker.events("metrics_served")[0]["port"]), "/readyz")
    assert status == 503
    assert answer["reasons"] == [{"part": "spaces", "reason": "no space is ready: there is none"}]
    worker.terminate()


def test_a_worker_that_stops_is_no_longer_ready(start_worker: Workers, client: Sightline) -> None:
    worker = start_worker(metrics_port=0)
    port = int(worker.events("metrics_served")[0]["port"])
    with client.database.transaction() as connection:
        job = client.ingest([{"text": "held"}], collection="held")
        connection.execute("select from sightline.item where text = 'held' for update")  # no flush ends meanwhile
        until(lambda: connection.execute("select from sightline.chunk where job_id = %s and state = 'running'", (job.job_id,)).fetchone() is not None)  # fmt: skip
        os.kill(worker.pid, signal.SIGTERM)
        answer = until(lambda: found if (found := get(port, "/readyz"))[0] == 503 else None)
    assert "it is stopping" in {reason["reason"] for reason in answer[1]["reasons"]}
    worker.wait(20)


def test_a_port_that_is_taken_ends_the_worker_in_one_line(start_worker: Workers) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        worker = start_worker(metrics_port=taken.getsockname()[1], ready=False)
        assert worker.wait(60) == 3
