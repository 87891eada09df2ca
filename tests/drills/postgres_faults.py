"""Postgres restarts, refuses or hangs up: what was not committed is done again, what was is not."""

from __future__ import annotations

import time

from tests.drills.catalogue import drill
from tests.drills.stage import Report, Stage
from tests.pgbouncer import pgbouncer
from tests.workers.processes import until

BACK = 40.0
"""Seconds after the end of an outage in which all is done: the sweeper first gives every worker one lease to be seen."""


@drill()
def postgres_restarted_in_mid_commit(stage: Stage) -> Report:
    """`-m immediate` while a commit is on its way: whatever became of it, each vector is stored once."""
    _proxy, trap, worker, job = stage.trapped(800, b"COMMIT", after=b"insert into sightline.embedding", hold="answer")
    stage.stop_postgres()
    trap.release()
    stage.heal()
    stage.fault()
    stage.recovered(lambda: stage.done(job) == 800, BACK)
    assert worker.exit_code() is None
    stage.nothing_was_spent(job)
    return stage.settle(job)


@drill()
def commit_without_an_answer(stage: Stage) -> Report:
    """The connection breaks when the commit has happened and was not answered: the worker finds out, nothing is done twice."""
    proxy, _trap, _worker, job = stage.trapped(64, b"COMMIT", after=b"insert into sightline.embedding", hold="answer")
    until(lambda: stage.done(job) == 64)
    stage.fault()
    proxy.cut()
    stage.recovered(lambda: job.progress().finished, BACK)
    stage.nothing_was_spent(job)
    return stage.settle(job)


@drill()
def postgres_refuses(stage: Stage) -> Report:
    """Postgres is away for 30 s in mid-job: workers bear with it, and go on by themselves."""
    with stage.mid_batch(800) as (gate, worker, job):
        stage.stop_postgres()
        gate.open()
        time.sleep(5 if stage.brief else 30)
        stage.heal()
        stage.fault()
    stage.recovered(lambda: stage.done(job) == 800, BACK)
    assert worker.exit_code() is None
    stage.nothing_was_spent(job)
    return stage.settle(job)


@drill()
def postgres_connections_killed(stage: Stage) -> Report:
    """pg_terminate_backend of every session of the workers, three times in mid-job."""
    with stage.mid_batch(800) as (_, _worker, job):
        stage.fault()
        for _ in range(3):
            stage.rows(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'sightline-worker'"
            )
            time.sleep(1)
    stage.recovered(lambda: stage.done(job) == 800, BACK)
    stage.nothing_was_spent(job)
    return stage.settle(job)


@drill(needs="pgbouncer")
def pool_of_one(stage: Stage) -> Report:
    """Two workers share one connection to Postgres, behind PgBouncer in transaction mode; one of them is killed."""
    with pgbouncer(stage.database_url, "transaction", default_pool_size=1) as url, stage.gate() as gate:
        killed = stage.worker(gate=gate, database_url=url)
        job = stage.submit(800)
        gate.wait(killed)
        stage.worker(database_url=url)
        hand = stage.in_hand(killed)
        stage.fault()
        killed.kill()
        stage.taken_over(hand, killed, 20)
        return stage.settle(job)
