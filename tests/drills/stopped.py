"""Workers that are told to stop: nothing is lost, and no attempt is spent."""

from __future__ import annotations

import os
import signal
import time

from tests.drills.catalogue import drill
from tests.drills.stage import Report, Stage
from tests.workers.processes import until


@drill(brief=True)
def sigterm_in_mid_batch(stage: Stage) -> Report:
    """SIGTERM while a batch is in the model: the worker finishes it, hands back the rest, and ends with 0."""
    with stage.mid_batch(600, chunk_slots=1) as (gate, stopped, job):
        stage.worker()
        until(lambda: stage.done(job) == 600 - len(stage.in_hand(stopped)))  # all else is done elsewhere
        claimed = stage.in_hand(stopped)
        stage.fault()
        stopped.send(signal.SIGTERM)
        stopped.wait_for("worker_stopping")
        stage.recovered(lambda: stage.done(job) == 600 - len(stage.in_hand(stopped)), 10)  # what it had not begun, too
        begun = stage.in_hand(stopped)
        assert begun
        assert set(begun) <= set(claimed)
        gate.open()
        assert stopped.wait(15) == 0
    assert stopped.events("worker_stopped")[0]["drained"] is True
    assert stage.done(job) == 600  # what it had begun, it has finished
    stage.nothing_was_spent(job)
    return stage.settle(job)


@drill()
def sigterm_and_the_deadline(stage: Stage) -> Report:
    """SIGTERM to a worker that cannot finish: at its deadline the work is handed back, and another one does it at once."""
    with stage.mid_batch(drain_seconds=3) as (_, stopped, job):
        stage.worker()
        hand = stage.in_hand(stopped)
        began = time.monotonic()
        stopped.send(signal.SIGTERM)
        assert stopped.wait(10) == 0
        assert 3 <= time.monotonic() - began < 8
        stage.fault()
        stage.taken_over(hand, stopped, 5)
    stage.nothing_was_spent(job)
    return stage.settle(job)


@drill(brief=True)
def sigterm_twice(stage: Stage) -> Report:
    """A second SIGTERM: the worker hands all back and ends at once."""
    with stage.mid_batch(drain_seconds=60) as (_, stopped, job):
        stage.worker()
        hand = stage.in_hand(stopped)
        stopped.send(signal.SIGTERM)
        stopped.wait_for("worker_stopping")
        stage.fault()
        stopped.send(signal.SIGTERM)
        assert stopped.wait(5) == 0
        stage.taken_over(hand, stopped, 8)
    stage.nothing_was_spent(job)
    return stage.settle(job)


@drill()
def rolling_restarts(stage: Stage) -> Report:
    """Workers are replaced one after the other under load: nothing is lost, no attempt is spent."""
    workers = [stage.worker(), stage.worker()]
    jobs = []
    stage.fault()
    for _ in range(4):
        jobs += [stage.submit(600), stage.submit(20)]
        old = workers.pop(0)
        until(lambda jobs=jobs: stage.done(jobs[-2]) > 0)  # type: ignore[misc]
        assert old.terminate(30) == 0
        workers.append(stage.worker())
    stage.recovered(lambda: all(job.progress().finished for job in jobs), 120)
    stage.nothing_was_spent(*jobs)
    return stage.settle(*jobs)


@drill()
def supervised_worker_dies(stage: Stage) -> Report:
    """kill -9 of the only worker: `sightline worker` starts it again and says so; a SIGTERM ends both with 0."""
    supervised = stage.supervised()
    killed = stage.value("select pid from sightline.worker")
    job = stage.submit()
    until(lambda: stage.done(job) > 0)
    again = stage.submit(asleep=True)
    stage.fault()
    os.kill(killed, signal.SIGKILL)
    stage.wake(again)
    stage.recovered(lambda: again.progress().finished, 60)
    assert "starting it again" in supervised.text()
    return stage.settle(job, again)
