"""Redis is lost, frozen, full or cut: it is the doorbell, and the ledger has the work."""

from __future__ import annotations

import os
import shutil
import signal
import time

import pytest

from sightline.errors import ServiceMissing
from tests.drills.catalogue import drill
from tests.drills.stage import Report, Stage
from tests.workers.processes import until

BACK = 30.0
"""Seconds after the end of an outage in which all that waited is done."""


@drill(brief=True)
def redis_flushed(stage: Stage) -> Report:
    """FLUSHALL in mid-job: what was published and unclaimed is published again; what runs goes on."""
    proxy, url = stage.redis_proxy()
    leads = stage.worker("--queues", "encode.other")
    stage.leader([leads])
    with stage.gate() as gate:
        worker = stage.worker(gate=gate, redis_url=url)
        jobs = [stage.submit(64)]
        gate.wait(worker)
        proxy.freeze()  # it takes no messages any more
        while not stage.redis.llen(f"{stage.prefix}encode"):
            jobs.append(stage.submit(64))
            time.sleep(0.5)
        stage.redis.flushall()
        stage.fault()
        proxy.thaw()
    stage.recovered(lambda: all(job.progress().finished for job in jobs), BACK)
    stage.nothing_was_spent(*jobs)
    return stage.settle(*jobs)


@drill()
def redis_restarted(stage: Stage) -> Report:
    """Redis is restarted in mid-job, with its data; calls are answered again."""
    with stage.mid_batch(800) as (_, worker, job):
        os.kill(stage.redis_pid, signal.SIGTERM)
        stage.heal()
        stage.fault()
    stage.recovered(lambda: stage.done(job) == 800 and stage.encode_call("are you there"), BACK)
    stage.nothing_was_spent(job)
    assert worker.exit_code() is None
    return stage.settle(job)


@drill()
def redis_dies_with_its_data(stage: Stage) -> Report:
    """kill -9 of Redis in mid-job, and it comes back empty; what was submitted meanwhile runs too."""
    with stage.mid_batch(800) as (_, _worker, job):
        os.kill(stage.redis_pid, signal.SIGKILL)
        away = stage.submit(100)
        until(stage.redis_is_gone, 10)
        shutil.rmtree(stage.redis_folder)
        stage.heal()
        stage.fault()
    stage.recovered(lambda: stage.done(job) == 800 and stage.done(away) == 100, BACK)
    stage.nothing_was_spent(job)
    return stage.settle(job, away)


@drill()
def redis_frozen(stage: Stage) -> Report:
    """Redis stands still for 15 s: what runs is stored all the same, callers get an error, and all goes on afterwards."""
    with stage.mid_batch(800) as (gate, worker, job):
        pid = stage.redis_pid
        os.kill(pid, signal.SIGSTOP)
        frozen = time.monotonic()
        try:
            gate.open()
            until(lambda: stage.done(job) > 0, 10)
            with pytest.raises(ServiceMissing):
                stage.client.broker.call("encode.interactive", {"kind": "encode", "space": "tiny", "inputs": []}, 3)
            assert time.monotonic() - frozen < 14
            time.sleep(max(0.0, 15 - (time.monotonic() - frozen)))
        finally:
            os.kill(pid, signal.SIGCONT)
        stage.fault()
    stage.recovered(lambda: stage.done(job) == 800 and stage.encode_call("are you there"), BACK)
    assert worker.exit_code() is None
    return stage.settle(job)


@drill()
def redis_full(stage: Stage) -> Report:
    """Redis is full (noeviction): callers are told, messages that it loses are sent again once there is room."""
    with stage.mid_batch(800) as (gate, worker, job):
        stage.redis.config_set("maxmemory", 1)
        gate.open()
        while_full = stage.submit(100)
        with pytest.raises(ServiceMissing, match="refuses"):
            stage.client.broker.call("encode.interactive", {"kind": "encode", "space": "tiny", "inputs": []}, 3)
        time.sleep(5)
        stage.redis.config_set("maxmemory", 0)
        stage.fault()
    stage.recovered(lambda: stage.done(job) == 800 and stage.done(while_full) == 100, BACK)
    assert worker.exit_code() is None
    return stage.settle(job, while_full)


@drill()
def redis_connections_killed(stage: Stage) -> Report:
    """CLIENT KILL of every connection, three times in mid-job."""
    with stage.mid_batch(800) as (_, _worker, job):
        stage.fault()
        for _ in range(3):
            stage.redis.client_kill_filter(_type="normal", skipme=True)
            time.sleep(1)
    stage.recovered(lambda: stage.done(job) == 800, BACK)
    stage.nothing_was_spent(job)
    return stage.settle(job)


@drill()
def redis_read_only(stage: Stage) -> Report:
    """Redis is read-only for a while, as a replica after a failover is."""
    with stage.mid_batch(800) as (gate, worker, job):
        stage.redis.execute_command("REPLICAOF", "127.0.0.1", "1")
        gate.open()
        time.sleep(5)
        stage.redis.execute_command("REPLICAOF", "NO", "ONE")
        stage.fault()
    stage.recovered(lambda: stage.done(job) == 800, BACK)
    assert worker.exit_code() is None
    return stage.settle(job)


@drill()
def redis_half_open(stage: Stage) -> Report:
    """The worker's connections to Redis lead nowhere, without a word: it notices within a minute, and connects anew."""
    proxy, url = stage.redis_proxy()
    worker = stage.worker(redis_url=url)
    first = stage.submit(64)
    until(lambda: stage.done(first) == 64)
    stage.fault()
    proxy.strand()
    job = stage.submit(300)
    stage.recovered(lambda: stage.done(job) == 300, 60)
    assert worker.exit_code() is None
    return stage.settle(first, job)
