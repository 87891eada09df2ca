"""Which items go into the next batch. Pure: no torch, no threads, and the clock is passed in.

What waits stands in lanes. The lane that leads gives the batch its kind: its oldest item is always in it, and beside
it those of its window that are nearest in length, as many as the budget holds. So batches are full, padding is little,
and nobody is passed over for ever. Lanes behind fill what is left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, Literal, Protocol, TypeVar

from workers.engine.costs import Price

Lane = Literal["interactive", "normal", "bulk"]
LANES: tuple[Lane, ...] = ("interactive", "normal", "bulk")

WINDOW = 512
"""Of so many, the oldest of their lane and kind, a batch is made."""
MOST = 256
"""Items of one batch, however little they cost."""
PATIENCE = 1.0
"""Seconds after which a lane that has had no batch has the next one."""
STRETCH = 1.25
"""So much longer an interactive batch may become by items of other lanes."""
PADDING = (2.0, 0.125)
"""Padding of a batch may cost so many fixed costs (of the batch that it spares), or such a part of the whole."""


@dataclass(slots=True, eq=False)
class Ticket:
    """An item that waits.

    Args:
        kind: of work; a batch is of one kind.
        size: what its cost depends on: pixels, tokens, ...
        lane: who goes first.
        arrived, deadline: of one monotonic clock.
        number: of arrival, given by the schedule.
    """

    kind: str
    size: int
    lane: Lane
    arrived: float
    deadline: float | None
    number: int = field(init=False, default=0)

    def expired(self, now: float) -> bool:
        """Nobody waits for it any more."""
        return self.deadline is not None and self.deadline <= now


T = TypeVar("T", bound=Ticket)


@dataclass(slots=True, eq=False)
class Batch(Generic[T]):
    """Items for one forward.

    Args:
        lane: that leads it.
        cost: estimated seconds.
        full: waiting for more items would not make it larger.
        overtaken: since when others went before it.
    """

    kind: str
    lane: Lane
    tickets: list[T]
    cost: float
    full: bool
    overtaken: float | None = None


class Prices(Protocol):
    """See `workers.engine.costs.Costs`."""

    def price(self, kind: str) -> Price:
        """Of one kind."""

    def budget(self, kind: str) -> float:
        """Of one batch of a kind, in seconds."""


class Schedule(Generic[T]):
    """What waits, and what goes next. Not safe in threads.

    Args:
        prices: of batches.
        on_expired: takes items whose deadline passed; they are in no batch.
    """

    def __init__(self, prices: Prices, on_expired: Callable[[list[T]], object]) -> None:
        self._prices = prices
        self._on_expired = on_expired
        self._lanes: dict[Lane, dict[str, deque[T]]] = {lane: {} for lane in LANES}
        self._led: dict[Lane, float] = dict.fromkeys(LANES, float("-inf"))
        self._out_of_turn = False
        self._added = 0
        self._dated: dict[Lane, int] = dict.fromkeys(LANES, 0)  # tickets that have a deadline: only calls do

    def add(self, ticket: T) -> None:
        """Put an item at the end of its lane."""
        ticket.number = self._added = self._added + 1
        self._dated[ticket.lane] += ticket.deadline is not None
        self._lanes[ticket.lane].setdefault(ticket.kind, deque()).append(ticket)

    def waiting(self, lane: Lane) -> int:
        """Items of a lane."""
        return sum(map(len, self._lanes[lane].values()))

    def backlog(self, lane: Lane) -> float:
        """Seconds of forwards that wait in a lane, taking the oldest item of a kind for all of them."""
        seconds = 0.0
        for kind, queue in self._lanes[lane].items():
            price = self._prices.price(kind)
            seconds += len(queue) * (price.per_item + price.per_unit * queue[0].size)
        return seconds

    def clear(self) -> list[T]:
        """Take everything out."""
        left = [ticket for kinds in self._lanes.values() for queue in kinds.values() for ticket in queue]
        for kinds in self._lanes.values():
            kinds.clear()
        self._dated = dict.fromkeys(LANES, 0)
        return left

    def expire(self, now: float) -> None:
        """Drop what is late."""
        for lane in [lane for lane in LANES if self._dated[lane]]:
            kinds = self._lanes[lane]
            for kind, queue in list(kinds.items()):
                late = [ticket for ticket in queue if ticket.expired(now)]
                if late:
                    self._dated[lane] -= len(late)
                    kinds[kind] = deque(ticket for ticket in queue if not ticket.expired(now))
                    self._tidy(kinds, kind)
                    self._on_expired(late)

    def take(self, now: float, *, full_only: bool = False) -> Batch[T] | None:
        """The next batch.

        Args:
            now: the time.
            full_only: none rather than one that could still grow.
        """
        self.expire(now)
        lane, out_of_turn = self._lead(now)
        if lane is None:
            return None
        batch = self._cut(lane)
        if full_only and not batch.full:
            return None
        self._remove(batch)
        self._led[lane] = now
        self._out_of_turn = out_of_turn
        return batch

    def overtakes(self, prepared: Batch[T], now: float) -> bool:
        """Whether what waits goes before a batch that was taken already: interactive work does, for a while."""
        if prepared.lane == "interactive" or not self.waiting("interactive"):
            return False
        if prepared.overtaken is None:
            prepared.overtaken = now
        return now - prepared.overtaken <= PATIENCE

    def _lead(self, now: float) -> tuple[Lane | None, bool]:
        """The lane whose turn it is, and whether it is so because it has waited too long; never twice running."""
        lanes = [lane for lane in LANES if self._lanes[lane]]
        if not lanes:
            return None, False
        waited = {lane: now - max(self._led[lane], self._oldest(lane).arrived) for lane in lanes}
        patient = max(lanes, key=lambda lane: waited[lane])
        if patient != lanes[0] and waited[patient] > PATIENCE and not self._out_of_turn:
            return patient, True
        return lanes[0], False

    def _oldest(self, lane: Lane) -> T:
        return min((queue[0] for queue in self._lanes[lane].values()), key=lambda ticket: ticket.number)

    def _cut(self, lane: Lane) -> Batch[T]:
        kind = self._oldest(lane).kind
        price = self._prices.price(kind)
        window = self._window(lane, kind)
        sizes = [ticket.size for ticket in window]
        order = sorted(range(len(window)), key=sizes.__getitem__)
        budget = self._prices.budget(kind)
        low, high = _grow(sorted(sizes), order.index(0), price, budget)
        tickets = [window[index] for index in order[low:high]]
        full = len(tickets) < len(window) or len(tickets) == MOST
        longest = tickets[-1].size
        if not full:
            most = min(budget, price.cost(len(tickets), longest) * STRETCH) if lane == "interactive" else budget
            for behind in LANES[LANES.index(lane) + 1 :]:
                _fill(tickets, self._window(behind, kind), longest, price, most)
        return Batch(kind, lane, tickets, price.cost(len(tickets), longest), full)

    def _window(self, lane: Lane, kind: str) -> list[T]:
        return list(islice(self._lanes[lane].get(kind, ()), WINDOW))

    def _remove(self, batch: Batch[T]) -> None:
        taken = set(map(id, batch.tickets))
        for lane in {ticket.lane for ticket in batch.tickets}:
            queue = self._lanes[lane][batch.kind]
            window = [queue.popleft() for _ in range(min(WINDOW, len(queue)))]
            queue.extendleft(ticket for ticket in reversed(window) if id(ticket) not in taken)
            self._dated[lane] -= sum(ticket.deadline is not None for ticket in window if id(ticket) in taken)
            self._tidy(self._lanes[lane], batch.kind)

    def _tidy(self, kinds: dict[str, deque[T]], kind: str) -> None:
        if not kinds[kind]:
            del kinds[kind]


def _grow(sizes: Sequence[int], at: int, price: Price, budget: float) -> tuple[int, int]:
    """The stretch of sorted sizes around `at` that makes a batch, as [low, high); each step takes the cheaper side."""
    low, high, longest, padding = at, at + 1, sizes[at], 0
    while high - low < MOST:
        n = high - low
        shorter = longest - sizes[low - 1] if low > 0 else None
        longer = n * (sizes[high] - longest) if high < len(sizes) else None
        # Of equals the one behind, which arrived later: so does the next batch find the ones before.
        down = shorter is not None and (longer is None or shorter < longer)
        added = shorter if down else longer
        if added is None:
            break
        top = longest if down else sizes[high]
        if not _fits(price, n + 1, top, padding + added, budget):
            break
        padding += added
        longest = top
        low, high = (low - 1, high) if down else (low, high + 1)
    return low, high


def _fill(tickets: list[T], window: Sequence[T], longest: int, price: Price, most: float) -> None:
    """Add items that are no longer than the batch, the longest of them first."""
    padding = sum(longest - ticket.size for ticket in tickets)
    for ticket in sorted(window, key=lambda ticket: -ticket.size):
        if ticket.size > longest:
            continue
        padding += longest - ticket.size
        if len(tickets) >= MOST or not _fits(price, len(tickets) + 1, longest, padding, most):
            return
        tickets.append(ticket)


def _fits(price: Price, n: int, longest: int, padding: int, most: float) -> bool:
    cost = price.cost(n, longest)
    return cost <= most and padding * price.per_unit <= max(PADDING[0] * price.fixed, PADDING[1] * cost)
