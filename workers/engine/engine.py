"""Three stages around one model: a batch is prepared while another is in the forward and a third is handed out."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from workers import metrics
from workers.engine.costs import Costs
from workers.engine.delivery import Delivery
from workers.engine.entry import Entry, Expired, Ready, fail, hand_out, settle
from workers.engine.forward import Forward
from workers.engine.schedule import PATIENCE, Batch, Lane, Schedule
from workers.engine.stage import Stage
from workers.engine.work import Work
from workers.errors import EngineUnavailable

log = structlog.get_logger(__name__)

R = TypeVar("R")

MAX_WAITING = 1024
"""Most items that wait in one lane; whoever submits more waits with them."""
MAX_WAITING_BYTES = 128 * 2**20
"""And most bytes in all lanes, of what has bytes: pixels."""
PART = 64
"""Items of one submission that go into the queue together."""


@dataclass(slots=True)
class _Border:
    """Something to run between two batches."""

    run: Callable[[], Any]
    future: Future[Any]
    asked: float


class Engine:
    """Runs the forwards of one model.

    An idle engine fires at once, there are no timers. What goes next is decided when the device is free; only a batch
    that is full, and would not grow by waiting, is prepared while another runs, and interactive work overtakes it. A
    forward that fails is bisected, so that only the guilty item fails; memory that runs out halves the budget. A stage
    that dies fails the items in its hands and goes on; no future is left hanging.

    Args:
        works: what the model does; `forward` is called by one thread only.
        name: in logs, metrics and of the threads.
        costs: prices, fitted or not.

    Attributes:
        done: items that got a result.
    """

    def __init__(self, works: Sequence[Work], name: str, costs: Costs | None = None) -> None:
        self.done = 0
        self._works = {work.kind: work for work in works}
        self._name = name
        self._costs = costs or Costs()
        lock = threading.RLock()
        self._due = threading.Condition(lock)  # the forward waits for work
        self._spare = threading.Condition(lock)  # the preparation waits for a forward that runs, and for a full batch
        self._room = threading.Condition(lock)  # who submits waits for room
        self._schedule: Schedule[Entry] = Schedule(self._costs, self._drop)
        self._borders: deque[_Border] = deque()
        self._bytes = 0
        self._ahead: Ready | None = None
        self._preparing: Batch[Entry] | None = None
        self._running: list[Entry] = []
        self._began: float | None = None
        self._closed = False
        self._forward = Forward(self._works, name)
        self._delivery = Delivery()
        self._stages = [
            Stage(name, "prepare", self._prepare, self._lost_preparing),
            Stage(name, "forward", self._turn, self._lost_running),
            Stage(name, "deliver", self._delivery.turn, lambda error: self._delivery.lost(self._death(error))),
        ]
        for stage in self._stages:
            stage.start()

    def submit(
        self, kind: str, prepared: Sequence[Any], lane: Lane = "normal", deadline: float | None = None
    ) -> list[Future[Any]]:
        """Queue items of one kind; waits while the lane is full.

        Args:
            kind: of one of the works.
            prepared: any number of items.
            lane: "interactive" goes first, "bulk" last.
            deadline: of `time.monotonic()`; items not begun by then fail with `Expired`.

        Returns:
            One future for each item: its result, or its error.
        """
        if not prepared:
            return []  # of a kind that the model may not even do
        work = self._works[kind]
        entries = [Entry(kind, work.size(item), lane, time.monotonic(), deadline, item) for item in prepared]
        with self._room:
            for first in range(0, len(entries), PART):
                part = entries[first : first + PART]
                while not self._closed and self._is_full(lane, part):
                    self._room.wait()
                if self._closed:
                    fail(entries[first:], EngineUnavailable(f"the engine of {self._name} is closed"))
                    break
                for entry in part:
                    self._schedule.add(entry)
                    self._bytes += entry.nbytes
                self._due.notify()
                if self._began is not None:
                    self._spare.notify()
        return [entry.future for entry in entries]

    def hold_back(self, lane: Lane, seconds: float) -> bool:
        """Wait while forwards of more than so many seconds wait in a lane; returns whether there were."""
        with self._room:
            early = self._schedule.backlog(lane) > seconds
            while not self._closed and self._schedule.backlog(lane) > seconds:
                self._room.wait()
        return early

    def at_border(self, run: Callable[[], R]) -> Future[R]:
        """Run something between two batches, in the thread of the forward: it has the model for itself meanwhile."""
        future: Future[R] = Future()
        with self._due:
            if self._closed:
                future.set_exception(EngineUnavailable(f"the engine of {self._name} is closed"))
            else:
                self._borders.append(_Border(run, future, time.monotonic()))
                self._due.notify()
        return future

    def waiting(self, lane: Lane) -> int:
        """Items that wait in a lane."""
        with self._room:
            return self._schedule.waiting(lane)

    @property
    def busy_seconds(self) -> float:
        """How long the batch in the forward has been there; 0 when idle."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    @property
    def trouble(self) -> str | None:
        """Why the engine cannot be relied on right now, in words."""
        for stage in self._stages:
            if stage.trouble is not None:
                return stage.trouble
            if stage.dead:
                return f"a thread of the engine of {self._name} is gone"
        return None

    def close(self) -> None:
        """Fail what waits, and end the threads after the batch in hand."""
        with self._room:
            self._closed = True
            for condition in (self._due, self._spare, self._room):
                condition.notify_all()
        prepare, forward, deliver = self._stages
        forward.join(5.0)
        prepare.join(1.0)
        closed = EngineUnavailable(f"the engine of {self._name} was closed")
        with self._room:
            ahead, self._ahead = self._ahead, None
            left = [*self._schedule.clear(), *(ahead.batch.tickets if ahead else [])]
            borders, self._borders = list(self._borders), deque()
        fail(left, closed)
        for border in borders:
            settle(border.future, closed)
        self._delivery.close()
        deliver.join(1.0)

    # What waits ------------------------------------------------------------------------------------------------------

    def _is_full(self, lane: Lane, part: Sequence[Entry]) -> bool:
        waiting = self._schedule.waiting(lane)
        size = sum(entry.nbytes for entry in part)
        return waiting > 0 and (waiting + len(part) > MAX_WAITING or self._bytes + size > MAX_WAITING_BYTES)

    def _drop(self, late: list[Entry]) -> None:
        """Take those out of the books that the schedule let expire; this holds the lock, so others tell who waited."""
        self._bytes -= sum(entry.nbytes for entry in late)
        self._room.notify_all()
        self._expire(late)

    def _expire(self, late: Sequence[Entry]) -> None:
        if not late:
            return
        for entry in late:
            metrics.EXPIRED.labels(entry.lane).inc()
        self._delivery.put(late, [Expired("the deadline passed before the forward")] * len(late), wait=False)

    def _take(self, *, full_only: bool = False) -> Batch[Entry] | None:
        batch = self._schedule.take(time.monotonic(), full_only=full_only)
        if batch is not None:
            self._bytes -= sum(entry.nbytes for entry in batch.tickets)
            self._room.notify_all()
        return batch

    # Stage 1: a full batch is put on the device while another one runs -----------------------------------------------

    def _prepare(self) -> bool:
        with self._spare:
            while not self._closed:
                if self._began is not None and self._ahead is None:
                    self._preparing = self._take(full_only=True)
                    if self._preparing is not None:
                        break
                self._spare.wait()
            if self._preparing is None:
                return False
            ready = Ready(self._preparing)
        # An error is found again, and its item, when the other stage collates the batch itself.
        with contextlib.suppress(BaseException):
            self._forward.collate(ready)
        with self._due:
            self._ahead, self._preparing = ready, None
            self._due.notify()
        return True

    def _lost_preparing(self, error: BaseException) -> None:
        with self._due:
            lost, self._preparing = self._preparing, None
            self._due.notify()
        fail(lost.tickets if lost else [], self._death(error))

    # Stage 2: the forward --------------------------------------------------------------------------------------------

    def _turn(self) -> bool:
        with self._due:
            while (work := self._next()) is None:
                if self._closed:
                    return False
                self._due.wait()
            self._began = time.monotonic()
            self._running = work.batch.tickets if isinstance(work, Ready) else []
            self._spare.notify()  # the next one may be prepared now
        if isinstance(work, Ready):
            self._run(work)
            self._stages[0].trouble = None  # a batch went through, and the preparation may have no turn for long
        else:
            settle(work.future, _outcome(work.run))
        self._running, self._began = [], None
        return True

    def _next(self) -> Ready | _Border | None:
        """What the device does next; None: nothing is there, or it comes in a moment."""
        if self._closed:
            return None
        now = time.monotonic()
        self._schedule.expire(now)
        calls = self._schedule.waiting("interactive")
        if self._borders and (not calls or now - self._borders[0].asked > PATIENCE):
            return self._borders.popleft()
        if self._ahead is not None and not self._schedule.overtakes(self._ahead.batch, now):
            ready, self._ahead = self._ahead, None
            return ready
        if self._preparing is not None and not calls:
            return None
        batch = self._take()
        return None if batch is None else Ready(batch)

    def _run(self, ready: Ready) -> None:
        began = time.monotonic()
        late = [entry for entry in ready.batch.tickets if entry.expired(began)]
        self._expire(late)
        # False where whoever waited has cancelled; from here on nobody else may settle the future.
        live = [e for e in ready.batch.tickets if not e.expired(began) and not e.future.done()
                and e.future.set_running_or_notify_cancel()]  # fmt: skip
        self._running = live
        if not live:
            return
        ready.keep(live)
        outcome = self._forward.run(ready)
        self.done += sum(not isinstance(result, BaseException) for result in outcome.results)
        self._learn(ready.batch, outcome.seconds, too_large=outcome.too_large)
        waited = {lane: metrics.QUEUE.labels(ready.batch.kind, lane) for lane in {entry.lane for entry in live}}
        for entry in live:
            waited[entry.lane].observe(began - entry.arrived)
        if self._closed or ready.batch.lane == "interactive":
            hand_out(live, outcome.results)  # one thread less on the way of a call
        else:
            self._delivery.put(live, outcome.results)

    def _learn(self, batch: Batch[Entry], seconds: float | None, *, too_large: bool) -> None:
        n, longest = len(batch.tickets), max(entry.size for entry in batch.tickets)
        if seconds is not None:
            self._costs.observe(batch.kind, n, longest, seconds)
        elif too_large:
            self._costs.out_of_memory(batch.cost)
            log.warning("batch_out_of_memory", engine=self._name, items=n,
                        budget_seconds=round(self._costs.budget(batch.kind), 4))  # fmt: skip
        metrics.BUDGET.labels(self._name, batch.kind).set(self._costs.budget(batch.kind))
        metrics.BATCH_SIZE.labels(self._name, batch.kind).observe(n)
        metrics.BATCH_COST.labels(self._name, batch.kind).observe(batch.cost)

    def _lost_running(self, error: BaseException) -> None:
        lost, self._running, self._began = self._running, [], None
        fail(lost, self._death(error))

    def _death(self, error: BaseException) -> EngineUnavailable:
        return EngineUnavailable(f"the engine of {self._name} died: {type(error).__name__}: {error}")


def _outcome(run: Callable[[], Any]) -> Any:
    try:
        return run()
    except BaseException as error:  # noqa: BLE001 - it is the answer
        return error.with_traceback(None)
