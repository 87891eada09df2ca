"""The ledger as a state machine: any order of moves, by real ledgers and writers on a real database, keeps every promise.

`LEDGER_EXAMPLES=200 python -m pytest tests/workers/test_ledger_machine.py` looks deeper than CI does.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from psycopg.types.json import Jsonb

from tests.drills.invariants import breaches, settled_breaches
from workers.database import Pool, open_pool
from workers.errors import NotFound, SourceUnavailable
from workers.ledger import MAX_ATTEMPTS, ClaimedChunk, Ledger
from workers.vector import Vector
from workers.writer import Outcome, Writer

EXAMPLES = int(os.environ.get("LEDGER_EXAMPLES", "6"))
STEPS = 45
COLLECTIONS = ("a", "b")
LEASE = "15 s"


@dataclass
class Item:
    """What a worker learnt of an item when it loaded it."""

    generation: int
    digest: bytes


@dataclass
class Claim:
    chunk: ClaimedChunk
    items: dict[int, Item]
    holds: bool = True  # so far as the machine knows


@dataclass
class Worker:
    ledger: Ledger
    writer: Writer
    silent: bool = False
    claims: list[Claim] = field(default_factory=list)


class LedgerMachine(RuleBasedStateMachine):
    """Moves of submitters, operators, workers and the dispatcher, in any order."""

    pool: Pool
    database_url: str

    def __init__(self) -> None:
        super().__init__()
        self.connection = psycopg.connect(self.database_url, autocommit=True)
        self.connection.execute(
            "truncate sightline.job, sightline.worker, sightline.item, sightline.pause, sightline.rate_limit, sightline.turn, "
            "sightline.forgotten, sightline.leader cascade"
        )
        for name in COLLECTIONS:
            self.connection.execute(
                "insert into sightline.collection (name) values (%s) on conflict do nothing", (name,)
            )
        self.workers: list[Worker] = []
        self.messages: list[list[int]] = []
        self.fences: dict[int, int] = {}
        self.finished: dict[int, tuple[object, ...]] = {}
        self.accepted = 0
        self.names = 0
        self.start_worker()

    def all(self, statement: str, *params: object) -> list[tuple]:
        return self.connection.execute(statement, params or None).fetchall()

    def one(self, statement: str, *params: object) -> object:
        return self.all(statement, *params)[0][0]

    def beat(self, worker: Worker) -> None:
        self.connection.execute(
            "insert into sightline.worker as w (worker_id, name, pid, slots, free_slots, queues) values (%s, %s, 1, 2, 2, '{encode}') "
            "on conflict (worker_id) do update set seen_at = clock_timestamp()",
            (worker.ledger.worker_id, f"host:{len(self.workers)}"),
        )

    def held(self) -> dict[int, Claim]:
        return {claim.chunk.chunk_id: claim for worker in self.workers for claim in worker.claims if claim.holds}

    def learn_what_was_lost(self) -> None:
        """After moves that take chunks from workers: which claims the ledger still honours."""
        running = dict(self.all("select chunk_id, fence from sightline.chunk where state = 'running'"))
        for worker in self.workers:
            for claim in worker.claims:
                claim.holds = running.get(claim.chunk.chunk_id) == claim.chunk.fence

    # --- submitters ---

    @rule(
        collection=st.sampled_from(COLLECTIONS), count=st.sampled_from([1, 2, 17, 70]), lane=st.sampled_from(["interactive", "normal", "bulk"]),
        unreadable=st.booleans(), later=st.booleans(),
    )  # fmt: skip
    def submit(self, collection: str, count: int, lane: str, unreadable: bool, later: bool) -> None:
        items: list[dict[str, object]] = []
        for _ in range(count):
            self.names += 1
            items.append({"text": f"text {self.names}", "external_id": str(self.names)})
        if unreadable:
            items.append({"external_id": "gone", "error": {"class": "NotFound", "message": "no such file"}})
        self.accepted += len(items)
        run_at = "tomorrow" if later else "now"
        self.one("select sightline.submit('encode', '{}', %s, %s, %s, %s)", collection, Jsonb(items), lane, run_at)

    @precondition(lambda self: self.names)
    @rule(data=st.data(), changed=st.booleans())
    def submit_again(self, data: st.DataObject, changed: bool) -> None:
        """The same items, under way or not, with other content or not: what is new of them is a new generation."""
        found = self.all(
            "select c.name, i.external_id, i.text from sightline.item i join sightline.collection c using (collection_id) order by item_id"
        )
        if found:
            first = data.draw(st.integers(0, len(found) - 1))
            chosen = [row for row in found[first : first + 5] if row[0] == found[first][0]]
            items = [{"text": text + " again" * changed, "external_id": name} for _, name, text in chosen]
            self.accepted += len(items)
            self.one("select sightline.submit('encode', '{}', %s, %s)", found[first][0], Jsonb(items))

    @rule(data=st.data())
    def delete_items(self, data: st.DataObject) -> None:
        ids = [row[0] for row in self.all("select item_id from sightline.item order by 1")]
        if ids:
            first = data.draw(st.integers(0, len(ids) - 1))
            self.connection.execute("delete from sightline.item where item_id = any(%s)", (ids[first : first + 3],))

    # --- operators ---

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        jobs = [row[0] for row in self.all("select job_id from sightline.job where finished_at is null order by 1")]
        if jobs:
            job = data.draw(st.sampled_from(jobs))
            self.connection.execute("select sightline.cancel(%s)", (job,))
            assert self.all("select from sightline.chunk where job_id = %s and state = 'queued'", job) == []

    @rule(collection=st.sampled_from((*COLLECTIONS, None)), on=st.booleans())
    def pause_or_resume(self, collection: str | None, on: bool) -> None:
        queue = "encode" if collection is None else None
        self.connection.execute(f"select sightline.{'pause' if on else 'resume'}(%s, %s)", (queue, collection))

    @rule(collection=st.sampled_from(COLLECTIONS), rate=st.sampled_from([None, 1.0, 1000.0]))
    def limit_rate(self, collection: str, rate: float | None) -> None:
        self.connection.execute("select sightline.rate_limit(%s, %s)", (collection, rate))

    @rule(what=st.sampled_from(["retry", "dismiss"]))
    def settle_failures(self, what: str) -> None:
        before = self.one("select coalesce(max(job_id), 0) from sightline.job")
        self.connection.execute(f"select * from sightline.{what}(everything => true)")
        self.accepted += self.one("select coalesce(sum(n_submitted), 0) from sightline.job where job_id > %s", before)

    @rule(collection=st.sampled_from((*COLLECTIONS, None)))
    def reconcile(self, collection: str | None) -> None:
        lacking = {
            row[0]
            for row in self.all(
                "select item_id from sightline.missing('current') where reason in ('failed', 'gone', 'stale', 'never submitted') "
                "and (%s::text is null or collection = %s)", collection, collection,
            )
        }  # fmt: skip
        made = self.all(
            "select distinct job_id from sightline.reconcile('current', %s) where job_id is not null", collection
        )
        jobs = [row[0] for row in made]
        enqueued = [
            row[0] for row in self.all("select unnest(item_ids) from sightline.chunk where job_id = any(%s)", jobs)
        ]
        assert sorted(enqueued) == sorted(lacking)
        self.accepted += len(enqueued)
        left = self.all(
            "select distinct reason from sightline.missing('current') where %s::text is null or collection = %s",
            collection,
            collection,
        )
        assert {row[0] for row in left} <= {"queued", "running", "dismissed"}

    @rule()
    def forget_finished_jobs(self) -> None:
        open_failures = self.all("select failure_id from sightline.failed_items order by 1")
        for _ in range(3):
            self.connection.execute("select sightline.forget_jobs('0 s', 2)")
        assert self.all("select failure_id from sightline.failed_items order by 1") == open_failures

    # --- the dispatcher ---

    @rule(per_slot=st.sampled_from([1, 4]))
    def publish(self, per_slot: int) -> None:
        rows = self.all("select queue, chunk_ids from sightline.take_unpublished('15 s', %s)", per_slot)
        ids = [chunk_id for _, chunk_ids in rows for chunk_id in chunk_ids]
        assert len(set(ids)) == len(ids)
        wrong = self.all(
            "select c.chunk_id from sightline.chunk c join sightline.job j using (job_id) where c.chunk_id = any(%s) and (c.state <> 'queued' "
            "or c.run_at > clock_timestamp() or j.cancel_requested_at is not null "
            "or exists (select from sightline.pause p where p.queue = c.queue or p.collection_id = j.collection_id))", ids,
        )  # fmt: skip
        assert wrong == []
        for _, chunk_ids in rows:
            sizes = self.all(
                "select lane, space_id, suspect, cardinality(item_ids) from sightline.chunk where chunk_id = any(%s)",
                chunk_ids,
            )
            assert len({row[:2] for row in sizes}) == 1
            assert sum(row[3] for row in sizes) <= 256
            assert len(sizes) == 1 or not any(row[2] for row in sizes)
        self.messages += [chunk_ids for _, chunk_ids in rows]

    @rule()
    def lose_redis(self) -> None:
        """All messages are gone; what nobody claimed is published again."""
        self.messages = []
        self.connection.execute("update sightline.chunk set published_at = null where state = 'queued'")

    @rule()
    def sweep(self) -> None:
        self.connection.execute("select sightline.sweep(%s, %s)", (LEASE, MAX_ATTEMPTS))
        self.learn_what_was_lost()
        for worker in self.workers:
            assert not (worker.silent and any(claim.holds for claim in worker.claims))

    @rule()
    def time_passes(self) -> None:
        """Back-off and tomorrow are over, and rates are paid for."""
        self.connection.execute(
            "update sightline.chunk set run_at = clock_timestamp() where state = 'queued' and run_at > clock_timestamp()"
        )
        self.connection.execute("update sightline.rate_limit set allowance = 1")

    # --- workers ---

    @precondition(lambda self: len(self.workers) < 5)
    @rule()
    def start_worker(self) -> None:
        ledger = Ledger(self.pool, uuid.uuid4())
        self.workers.append(Worker(ledger, Writer(self.pool, ledger)))
        self.beat(self.workers[-1])

    @rule(data=st.data())
    def worker_falls_silent(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.workers))
        worker.silent = True
        self.connection.execute(
            "update sightline.worker set seen_at = clock_timestamp() - interval '17 s' where worker_id = %s",
            (worker.ledger.worker_id,),
        )

    @rule(data=st.data())
    def worker_wakes_up(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.workers))
        worker.silent = False
        self.beat(worker)

    @precondition(lambda self: self.messages)
    @rule(data=st.data(), twice=st.booleans())
    def claim(self, data: st.DataObject, twice: bool) -> None:
        """A worker gets a message, which may come again to anybody."""
        worker = data.draw(st.sampled_from(self.workers))
        message = data.draw(st.sampled_from(self.messages))
        if not twice:
            self.messages.remove(message)
        held = self.held()
        barred = {
            row[0]
            for row in self.all(
                "select c.chunk_id from sightline.chunk c join sightline.job j using (job_id) where c.chunk_id = any(%s) and "
                "(j.cancel_requested_at is not null or c.run_at > clock_timestamp() + interval '10 s' "
                "or exists (select from sightline.pause p where p.queue = c.queue or p.collection_id = j.collection_id))", message,
            )
        }  # fmt: skip
        claimed = worker.ledger.claim(message)
        for chunk in claimed:
            assert chunk.chunk_id in message
            assert chunk.chunk_id not in held
            assert chunk.chunk_id not in barred
            assert chunk.fence > self.fences.get(chunk.chunk_id, 0)
            self.fences[chunk.chunk_id] = chunk.fence
            rows = self.all(
                "select item_id, generation, digest from sightline.item where item_id = any(%s)", chunk.item_ids
            )
            worker.claims.append(Claim(chunk, {item: Item(generation, digest) for item, generation, digest in rows}))

    def some_claims(self, data: st.DataObject) -> tuple[Worker, list[Claim]]:
        worker = data.draw(st.sampled_from([worker for worker in self.workers if worker.claims]))
        first = data.draw(st.integers(0, len(worker.claims) - 1))
        return worker, worker.claims[first : first + 4]

    @precondition(lambda self: any(worker.claims for worker in self.workers))
    @rule(data=st.data(), fail=st.integers(0, 3), retry=st.integers(0, 3))
    def flush(self, data: st.DataObject, fail: int, retry: int) -> None:
        """A worker stores what became of some chunks: a part fails for good, a part is to be tried again. Late ones are refused."""
        worker, claims = self.some_claims(data)
        outcomes = {}
        for claim in claims:
            for n, (item_id, item) in enumerate(claim.items.items()):
                error = NotFound("gone") if n < fail else SourceUnavailable("stale mount") if n < fail + retry else None
                point = np.array([1, item.generation, item_id % 7, 1], np.float32)
                vector = None if error else Vector(point / np.linalg.norm(point), float(np.linalg.norm(point)))
                outcomes[item_id] = Outcome(
                    item_id, item.generation, "text", str(item_id), digest=item.digest, vector=vector, error=error
                )
        (space_id,) = {claim.chunk.space_id for claim in claims}
        counts = worker.writer.flush(space_id, [claim.chunk for claim in claims], outcomes)
        assert counts["lost"] == sum(len(claim.chunk.item_ids) for claim in claims if not claim.holds)
        self.forget(worker, claims)

    @precondition(lambda self: any(worker.claims for worker in self.workers))
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        """An error that concerns a chunk as a whole."""
        worker, (claim, *_) = self.some_claims(data)
        became = worker.ledger.fail(claim.chunk, "Broken", "it broke")
        assert (became == "lost") == (not claim.holds)
        worker.ledger.close_jobs([claim.chunk])
        self.forget(worker, [claim])

    @precondition(lambda self: any(worker.claims for worker in self.workers))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        worker, claims = self.some_claims(data)
        attempts = dict(self.all("select chunk_id, attempt from sightline.chunk"))
        worker.ledger.release([claim.chunk.chunk_id for claim in claims])
        assert dict(self.all("select chunk_id, attempt from sightline.chunk")) == attempts
        self.forget(worker, claims)

    @rule(data=st.data())
    def stop_worker(self, data: st.DataObject) -> None:
        """It ends in order, with or without giving everything back; its late threads may still write."""
        worker = data.draw(st.sampled_from(self.workers))
        if data.draw(st.booleans()):
            worker.ledger.release([claim.chunk.chunk_id for claim in worker.claims])
        self.connection.execute(
            "update sightline.worker set stopped_at = clock_timestamp(), queues = '{}' where worker_id = %s",
            (worker.ledger.worker_id,),
        )
        self.connection.execute("select sightline.sweep(%s, %s)", (LEASE, MAX_ATTEMPTS))
        self.learn_what_was_lost()
        assert not any(claim.holds for claim in worker.claims)
        self.workers.remove(worker)
        if not self.workers:
            self.start_worker()

    def forget(self, worker: Worker, claims: list[Claim]) -> None:
        gone = {id(claim) for claim in claims}
        worker.claims = [claim for claim in worker.claims if id(claim) not in gone]
        self.learn_what_was_lost()

    # --- what holds after every step ---

    @invariant()
    def every_promise_is_kept(self) -> None:
        assert breaches(self.connection, lease=float("inf")) == []

    @invariant()
    def what_was_accepted_is_counted(self) -> None:
        counted = self.one(
            "select (select coalesce(sum(n_submitted), 0) from sightline.job) + (select coalesce(sum(items), 0) from sightline.forgotten)"
        )
        assert counted == self.accepted

    @invariant()
    def a_worker_holds_one_suspect_at_most(self) -> None:
        query = "select worker_id from sightline.chunk where state = 'running' and suspect group by worker_id having count(*) > 1"
        assert self.all(query) == []

    @invariant()
    def the_ledger_and_the_workers_agree_on_who_holds_what(self) -> None:
        running = dict(self.all("select chunk_id, fence from sightline.chunk where state = 'running'"))
        assert {chunk_id: claim.chunk.fence for chunk_id, claim in self.held().items()} == running

    @invariant()
    def finished_jobs_stay_as_they_are(self) -> None:
        rows = self.all(
            "select job_id, state, submitted, done, skipped, cancelled from sightline.job_progress where finished_at is not null"
        )
        now = {row[0]: row for row in rows}
        for job_id, before in self.finished.items():
            assert now.get(job_id, before) == before
        self.finished = now

    def teardown(self) -> None:
        """However it went: once nothing is held back and workers work, everything ends."""
        try:
            for worker in self.workers:
                self.beat(worker)
            self.connection.execute("delete from sightline.pause")
            self.connection.execute("delete from sightline.rate_limit")
            self.lose_redis()
            worker = self.workers[0]
            for _ in range(400):
                self.time_passes()
                self.publish(4)
                for message in self.messages:
                    for chunk in worker.ledger.claim(message):
                        rows = self.all(
                            "select item_id, generation, digest from sightline.item where item_id = any(%s)",
                            chunk.item_ids,
                        )
                        worker.claims.append(
                            Claim(chunk, {item: Item(generation, digest) for item, generation, digest in rows})
                        )
                self.messages = []
                for each in self.workers:
                    chunks = [claim.chunk for claim in each.claims]
                    items = {item_id: item for claim in each.claims for item_id, item in claim.items.items()}
                    one = Vector(np.array([1, 0, 0, 0], np.float32), 1.0)
                    outcomes = {
                        i: Outcome(i, item.generation, "text", str(i), digest=item.digest, vector=one)
                        for i, item in items.items()
                    }
                    if chunks:
                        each.writer.flush(chunks[0].space_id, chunks, outcomes)
                    each.claims = []
                if self.all("select from sightline.chunk where state in ('queued', 'running') limit 1") == []:
                    break
            self.connection.execute("select sightline.sweep(%s, %s)", (LEASE, MAX_ATTEMPTS))
            assert settled_breaches(self.connection) == []
        finally:
            self.connection.close()


@pytest.fixture(scope="module")
def pool(database_url: str) -> Iterator[Pool]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("select sightline.create_space('toy', 'points', 4)")
        connection.execute("select sightline.alias_space('current', 'toy')")
    with open_pool(database_url, 4) as opened:
        yield opened


@pytest.mark.timeout(0 if EXAMPLES > 6 else 180)
def test_any_order_of_moves_keeps_every_promise(pool: Pool, database_url: str) -> None:
    class Machine(LedgerMachine):
        pass

    Machine.pool, Machine.database_url = pool, database_url
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, derandomize="LEDGER_EXAMPLES" not in os.environ,
            suppress_health_check=list(HealthCheck), print_blob=True, database=None,
        ),
    )  # fmt: skip
