"""`retry`, `dismiss`, `cancel`, `pause`, `resume` and what `jobs`, `failures` and `status` show of them."""

from __future__ import annotations

import json

import psycopg
import pytest

from tests.sightline.cli.conftest import Cli
from tests.sightline.test_control import fail, submit
from tests.sightline.test_ledger import WORKER, beat


@pytest.fixture(autouse=True)
def empty(connection: psycopg.Connection) -> None:
    connection.execute("truncate sightline.job, sightline.worker, sightline.collection cascade")
    connection.execute("select sightline.create_space('toy', 'points', 4)")
    connection.execute("select sightline.alias_space('current', 'toy')")
    beat(connection, WORKER)


def test_failures_are_retried_or_dismissed_and_say_so(given: Cli, connection: psycopg.Connection) -> None:
    job = submit(connection, 3)
    fail(connection, job)
    listed = given("failures", "--json").data
    assert [failure["error_class"] for failure in listed] == ["Broken"] * 3
    one = listed[0]["failure_id"]
    assert given("dismiss", "--id", str(one)).out == "1 failures dismissed\n"
    assert given("retry", "--job", str(job)).out == f"job {job + 1} does 2 failed items of job {job} again\n"
    assert given("retry", "--job", str(job)).out == "no open failure matches\n"
    assert given("failures").out == "no open failures\n"
    assert given("failures", "--all", "--class", "Other", "--json").data == []
    assert len(given("failures", "--all", "--collection", "c", "--class", "Broken", "--json").data) == 3
    outcomes = [failure["outcome"] for failure in given("failures", "--all", "--json").data]
    assert sorted(outcomes) == ["dismissed", f"retried in job {job + 1}", f"retried in job {job + 1}"]
    jobs = {row["job_id"]: row for row in given("jobs", "--json").data}
    assert (jobs[job]["failed"], jobs[job]["retry_of"]) == (3, None)
    assert (jobs[job + 1]["pending"], jobs[job + 1]["retry_of"]) == (2, job)


def test_jobs_are_watched_until_ctrl_c(
    given: Cli, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(connection, 3)
    pauses = 0

    def pause(seconds: float) -> None:
        nonlocal pauses
        pauses += 1
        if pauses == 1:
            fail(connection, job)
        else:
            raise KeyboardInterrupt

    monkeypatch.setattr("sightline.cli.watch.time.sleep", pause)
    ended = given("jobs", "--watch")
    assert ended.code == 0
    lines = [line.split(" ", 1)[1] for line in ended.out.splitlines()]  # without the time of day
    assert lines[0].startswith(f"job {job} queued: 0 of 3 done, 3 pending")
    assert lines[1].startswith(f"job {job} done: 0 of 3 done, 3 failed")


def test_status_is_watched_until_ctrl_c(
    given: Cli, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(connection, 3)

    def pause(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sightline.cli.watch.time.sleep", pause)
    ended = given("status", "--watch")
    assert ended.code == 0
    (line,) = [line for line in ended.out.splitlines() if " encode: " in line]
    assert "queued 3" in line
    assert "cost_s 0.3" in line


def test_a_retry_that_leaves_some_open_exits_with_1(given: Cli, connection: psycopg.Connection) -> None:
    connection.execute(
        "select sightline.submit('encode', '{}', 'c', %s)",
        (json.dumps([{"external_id": "a.png", "error": {"class": "NotFound", "message": "gone"}}]),),
    )
    ended = given("retry", "--class", "NotFound")
    assert ended.code == 1
    assert "1 failures stay open" in ended.err
    assert "ingest them again" in ended.err


def test_cancel_says_what_became_of_the_items(given: Cli, connection: psycopg.Connection) -> None:
    job = submit(connection, 5)
    assert given("cancel", str(job)).out == f"job {job} cancelled: 0 items were done before, 5 were not\n"
    assert given("cancel", str(job)).code == 0
    assert given("cancel", str(job), "--json").data["cancelled"] == 5
    done = submit(connection, 1)
    fail(connection, done)
    assert "was done already" in given("cancel", str(done)).out


def test_pauses_are_shown_wherever_one_looks(given: Cli, connection: psycopg.Connection) -> None:
    submit(connection, 5)
    assert given("pause", "--queue", "encode", "--reason", "new driver").out == "queue encode is paused\n"
    assert given("pause", "--queue", "encode").out == "queue encode was paused already\n"
    assert given("jobs", "--json").data[0]["state"] == "paused"
    status = given("status", "--json").data
    assert status["pauses"][0]["reason"] == "new driver"
    assert (status["queues"][0]["paused"], status["queues"][0]["held_items"]) == (True, 5)
    assert "new driver" in given("status").out
    assert given("resume", "--queue", "encode").out == "queue encode goes on\n"
    assert given("resume", "--queue", "encode").out == "queue encode was not paused\n"
    assert given("pause", "--collection", "c", "--json").data == {"paused": "collection c", "changed": True}
    assert given("jobs", "--json").data[0]["state"] == "paused"
    given("resume", "--collection", "c")
    assert given("jobs", "--json").data[0]["state"] == "queued"


def test_status_says_which_spaces_a_worker_refuses(given: Cli, connection: psycopg.Connection) -> None:
    models = [
        {"space": "toy", "model": "m", "state": "ready", "detail": "cpu"},
        {"space": "big", "model": "n", "state": "refused", "detail": "its passport differs (dim)"},
    ]
    connection.execute("update sightline.worker set models = %s", (json.dumps(models),))
    ended = given("status")
    assert "toy (cpu), big (refused)" in ended.out
    assert "w refuses space big: its passport differs (dim)" in ended.err


def test_status_says_what_nobody_was_told(given: Cli, connection: psycopg.Connection) -> None:
    connection.execute("create table gone (id int primary key, body text)")
    connection.execute("create table fine (id int primary key, body text)")
    connection.execute("select sightline.watch('gone', 'id', 'body', 'g'), sightline.watch('fine', 'id', 'body', 'f')")
    connection.execute("drop table gone")
    connection.execute(
        "insert into sightline.refused_message (message_id, request, error) values ('m1', '{}', 'e'), ('m2', '{}', 'e')"
    )
    ended = given("status")
    assert "table gone is not followed by collection g: table is gone" in ended.err
    assert "fine" not in ended.err
    assert "2 messages could not be submitted" in ended.err
    data = given("status", "--json").data
    assert [watch["source"] for watch in data["broken_watches"]] == ["gone"]
    assert data["refused_messages"]["messages"] == 2


def test_status_does_not_count_for_ever(
    given: Cli, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sightline.cli.status.COUNT_SECONDS", 0.3)
    submit(connection, 2)
    assert given("status", "--json").data["spaces"] == [{"space": "toy", "vectors": 0, "missing": 2, "exact": True}]
    with psycopg.connect(connection.info.dsn) as holding:
        holding.execute("lock table sightline.embedding in access exclusive mode")  # a count that would take long
        (space,) = given("status", "--json").data["spaces"]
    assert (space["missing"], space["exact"]) == (None, False)


def test_doctor_exits_with_3_when_something_fails(
    given: Cli, cli: Cli, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sightline.doctor.machine.check_models", lambda *_: [])  # has tests of its own, and loads torch
    well = given("doctor", "--json")
    assert well.code == 0
    assert {check["state"] for check in well.data} <= {"ok", "warn"}
    assert len(well.data) > 15
    assert "0 failed" in given("doctor").out
    connection.execute("update sightline.migration set version_num = '0001'")
    try:
        ill = given("doctor")
    finally:
        connection.execute("update sightline.migration set version_num = '0005'")
    assert ill.code == 3
    assert "-> run `sightline migrate`" in ill.out
    assert cli("doctor").code == 3  # no stack, no servers


def test_a_rate_limit_is_set_shown_and_lifted(given: Cli, connection: psycopg.Connection) -> None:
    submit(connection, 3)
    assert given("rate-limit", "c", "--per-second", "2.5").out == "collection c starts at most 2.5 items a second\n"
    (limit,) = given("status", "--json").data["rate_limits"]
    assert (limit["collection"], limit["items_per_second"], limit["queued_items"]) == ("c", 2.5, 3)
    assert "2.5" in given("status").out
    assert given("rate-limit", "c", "--lift").out == "collection c has no limit any more; it was 2.5 items a second\n"
    assert given("rate-limit", "c", "--lift").out == "collection c had no limit\n"
    refused = given("rate-limit", "c")
    assert (refused.code, refused.err) == (2, "sightline: give --per-second or --lift, one of them\n")


def test_reconcile_says_what_it_enqueues_and_what_not(given: Cli, connection: psycopg.Connection) -> None:
    job = submit(connection, 3)
    fail(connection, job)
    assert given("reconcile").out == f"job {job + 1} does 3 items of c, failed\n"
    assert given("reconcile").out == "nothing to enqueue for 3 items of c, queued\n"
    assert given("reconcile", "--json").data == [{"collection": "c", "reason": "queued", "items": 3, "job_id": None}]
    connection.execute("truncate sightline.item cascade")
    assert given("reconcile").out == "nothing is missing\n"
