"""Workers that die: kill -9 at every point of a message's way."""

from __future__ import annotations

from tests.drills.catalogue import drill
from tests.drills.sabotage import RAISE
from tests.drills.stage import Report, Stage
from tests.workers.processes import until

ELSEWHERE = 20.0
"""Seconds within which a killed worker's work runs elsewhere, with the product's defaults."""


@drill(brief=True)
def killed_in_mid_batch(stage: Stage) -> Report:
    """kill -9 of a worker whose batch is in the model: another one does its chunks."""
    with stage.mid_batch() as (_, killed, job):
        stage.worker()
        hand = stage.in_hand(killed)
        stage.fault()
        killed.kill()
        stage.taken_over(hand, killed, ELSEWHERE)
    return stage.settle(job)


@drill()
def killed_between_pop_and_note(stage: Stage) -> Report:
    """kill -9 when Redis has given a message away and nothing is noted of it: the ledger rings again."""
    proxy, url = stage.redis_proxy()
    killed = stage.worker(redis_url=url)
    trap = proxy.trap(b"HSET")
    job = stage.submit(64)
    trap.wait()
    stage.worker()
    stage.fault()
    killed.kill()
    stage.recovered(lambda: stage.done(job) == 64, ELSEWHERE)
    stage.nothing_was_spent(job)
    return stage.settle(job)


@drill()
def killed_between_pop_and_claim(stage: Stage) -> Report:
    """kill -9 of a worker that has taken and acknowledged a message and not yet claimed its chunks."""
    _proxy, _trap, killed, job = stage.trapped(64, b"sightline.claim")
    stage.worker()
    stage.fault()
    killed.kill()
    stage.recovered(lambda: stage.done(job) == 64, ELSEWHERE)
    stage.nothing_was_spent(job)
    return stage.settle(job)


@drill()
def killed_between_claim_and_commit(stage: Stage) -> Report:
    """kill -9 when all vectors are written and the commit is not sent: nothing of it is there, all of it is done again."""
    _proxy, _trap, killed, job = stage.trapped(64, b"COMMIT", after=b"insert into sightline.embedding")
    hand = stage.in_hand(killed)
    assert len(hand) == 64
    stage.worker()
    stage.fault()
    killed.kill()
    stage.taken_over(hand, killed, ELSEWHERE)
    return stage.settle(job)


@drill()
def host_lost_before_the_commit(stage: Stage) -> Report:
    """The host loses power in mid-transaction: Postgres keeps the session and its locks, and the work runs elsewhere all the same."""
    proxy, _trap, killed, job = stage.trapped(64, b"COMMIT", after=b"insert into sightline.embedding")
    hand = stage.in_hand(killed)
    stage.worker()
    proxy.silent = True
    stage.fault()
    killed.kill()
    stage.taken_over(hand, killed, ELSEWHERE)
    return stage.settle(job)


@drill()
def killed_after_the_commit(stage: Stage) -> Report:
    """kill -9 when the commit has happened and the worker has not heard of it: nothing is done a second time."""
    _proxy, _trap, killed, job = stage.trapped(64, b"COMMIT", after=b"insert into sightline.embedding", hold="answer")
    stage.worker()
    stage.fault()
    killed.kill()
    stage.recovered(lambda: job.progress().finished, ELSEWHERE)  # the sweeper closes it
    stage.nothing_was_spent(job)
    return stage.settle(job)


@drill()
def dispatcher_killed(stage: Stage) -> Report:
    """kill -9 of the worker that leads as dispatcher: another leads within seconds, and what is submitted meanwhile runs."""
    workers = [stage.worker(), stage.worker()]
    leading = stage.leader(workers)
    stage.fault()
    leading.kill()
    job = stage.submit()
    stage.recovered(lambda: stage.done(job), ELSEWHERE)
    return stage.settle(job)


@drill()
def poison_item(stage: Stage) -> Report:
    """An item that kills every process that touches it is cornered and fails alone; its neighbours are stored."""
    stage.supervised()
    texts = [f"p {n}" for n in range(99)]
    job = stage.submit([*texts[:50], "!kill", *texts[50:]])
    stage.fault()
    stage.recovered(lambda: job.progress().finished, 120)
    progress = job.progress()
    assert (progress.done, progress.failed) == (99, 1), progress
    (failure,) = job.failures()
    assert (failure.external_id, failure.error_class) == ("!kill", "WorkerLost")
    return stage.settle(job)


@drill(brief=True)
def base_exceptions(stage: Stage) -> Report:
    """SystemExit, MemoryError and KeyboardInterrupt in every thread that works: the items fail, the slots live on."""
    raising = "workers.ledger:Ledger.waiting:MemoryError:1,workers.encode:EncodeWork.run:SystemExit:1"
    worker = stage.worker(faults={RAISE: raising}, chunk_slots=1)
    orders = ["!exit 1", "!memory 2", "!interrupt 3", "!!exit 4", "!!memory 5", "!!interrupt 6"]
    stage.fault()
    job = stage.submit([*orders, *(f"b {n}" for n in range(194))])
    stage.recovered(lambda: job.progress().finished, 60)
    progress = job.progress()
    assert (progress.done, progress.failed) == (194, 6), progress
    assert {failure.external_id for failure in job.failures()} == set(orders)
    after = stage.submit(300)
    until(lambda: after.progress().finished)
    assert worker.exit_code() is None
    return stage.settle(job, after)
