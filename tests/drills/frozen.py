"""Workers that stand still, are cut off, or live in another time: they believe in leases that are gone."""

from __future__ import annotations

from tests.drills.catalogue import drill
from tests.drills.killed import ELSEWHERE
from tests.drills.sabotage import CLOCK
from tests.drills.stage import Report, Stage
from tests.workers.processes import until


@drill(brief=True)
def frozen_in_mid_batch(stage: Stage) -> Report:
    """SIGSTOP of a worker in mid-batch, SIGCONT after its work was redone: its late results are refused."""
    with stage.mid_batch() as (_, frozen, job):
        stage.worker()
        hand = stage.in_hand(frozen)
        stage.fault()
        frozen.freeze()
        stage.taken_over(hand, frozen, ELSEWHERE)
        until(lambda: job.progress().finished, 30)
    before = stage.value("select count(*) from drill.write")
    frozen.thaw()
    frozen.wait_for("chunk_lost")
    assert stage.value("select count(*) from drill.write") == before
    return stage.settle(job)


@drill()
def dispatcher_frozen(stage: Stage) -> Report:
    """SIGSTOP of the worker that leads as dispatcher: another leads within seconds; the first, back again, follows."""
    workers = [stage.worker(), stage.worker()]
    leading = stage.leader(workers)
    stage.fault()
    leading.freeze()
    job = stage.submit()
    # The new leader's first message may go to the frozen one, which waits in Redis' line: it is sent again.
    stage.recovered(lambda: stage.done(job) > 0, 2 * ELSEWHERE)
    until(lambda: job.progress().finished, 2 * ELSEWHERE)
    leading.thaw()
    leading.wait_for("dispatcher_follows")
    after = stage.submit()
    return stage.settle(job, after)


@drill()
def cut_off_from_postgres(stage: Stage) -> Report:
    """The network between one worker and Postgres is gone in mid-batch and comes back after its work was redone."""
    proxy, url = stage.postgres_proxy()
    with stage.mid_batch(database_url=url) as (_, cut_off, job):
        other = stage.worker()
        hand = stage.in_hand(cut_off)
        stage.fault()
        proxy.freeze()
        stage.taken_over(hand, cut_off, ELSEWHERE)
        until(lambda: job.progress().finished, 30)
    proxy.thaw()
    cut_off.wait_for("chunk_lost")
    cut_off.wait_for("work_taken_again")
    assert other.terminate() == 0
    return stage.settle(job, stage.submit())  # the one that was cut off does this


@drill()
def clocks_off(stage: Stage) -> Report:
    """One worker's clock is a minute ahead and another's a minute behind: leases are by the database's clock."""
    for wrong in (60, -60):
        alone = stage.worker(faults={CLOCK: wrong})
        assert stage.encode_call("what time is it")
        assert alone.terminate() == 0
    with stage.mid_batch(faults={CLOCK: 60}) as (_, ahead, job):
        stage.worker(faults={CLOCK: -60})
        hand = stage.in_hand(ahead)
        until(lambda: stage.done(job) > 0 or len(hand) == 300)
        assert set(hand) == set(stage.in_hand(ahead))  # nobody took what is not lost
        stage.fault()
        ahead.kill()
        stage.taken_over(hand, ahead, ELSEWHERE)
    return stage.settle(job, stage.submit())
