"""The scheduling core: whatever comes in, nothing starves, nothing is lost, and the budget holds."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from workers.engine.costs import Costs, Price
from workers.engine.schedule import LANES, MOST, PATIENCE, STRETCH, WINDOW, Batch, Lane, Schedule, Ticket

KINDS = ("image", "text", "pairs")


@dataclass
class Prices:
    """A price for all kinds."""

    most: float = 0.1
    given: Price = field(default_factory=lambda: Price(fixed=0.002, per_item=0.0001, per_unit=0.00002))

    def price(self, _: str) -> Price:
        return self.given

    def budget(self, _: str) -> float:
        return self.most


def schedule(prices: Prices | None = None) -> tuple[Schedule[Ticket], list[Ticket]]:
    expired: list[Ticket] = []
    return Schedule(prices or Prices(), expired.extend), expired


def ticket(
    size: int = 1, lane: Lane = "bulk", kind: str = "text", arrived: float = 0.0, deadline: float | None = None
) -> Ticket:
    return Ticket(kind, size, lane, arrived, deadline)


def taken(of: Schedule[Ticket], now: float = 0.0) -> Batch[Ticket]:
    batch = of.take(now)
    assert batch is not None
    return batch


class Anything(RuleBasedStateMachine):
    """Items come, time passes, batches are taken; what went out is compared with what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.prices = Prices()
        self.schedule, self.expired = schedule(self.prices)
        self.now = 0.0
        self.waiting: list[Ticket] = []  # in the order of arrival
        self.served: list[Ticket] = []
        self.added = 0

    @rule(
        sizes=st.lists(st.one_of(st.integers(1, 80), st.just(20_000)), min_size=1, max_size=30),
        copies=st.integers(1, 20),
        lane=st.sampled_from(LANES),
        kind=st.sampled_from(KINDS),
        patience=st.one_of(st.none(), st.floats(0, 3)),
    )
    def add(self, sizes: list[int], copies: int, lane: Lane, kind: str, patience: float | None) -> None:
        for size in sizes * copies:
            one = ticket(size, lane, kind, self.now, None if patience is None else self.now + patience)
            self.schedule.add(one)
            self.waiting.append(one)
            self.added += 1

    @rule(seconds=st.floats(0.001, 1.5))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(
        budget=st.floats(0.001, 0.5), price=st.builds(Price, st.floats(0, 0.05), st.floats(0, 0.01), st.floats(0, 1e-4))
    )
    def prices_change(self, budget: float, price: Price) -> None:
        self.prices.most, self.prices.given = budget, price

    @precondition(lambda self: self.waiting)
    @rule(full_only=st.booleans())
    def take(self, full_only: bool) -> None:
        self.waiting = [one for one in self.waiting if not one.expired(self.now)]
        batch = self.schedule.take(self.now, full_only=full_only)
        if batch is None:
            assert full_only or not self.waiting
            return
        tickets = set(batch.tickets)
        assert len(tickets) == len(batch.tickets) <= MOST
        assert all(one.kind == batch.kind and not one.expired(self.now) for one in tickets)
        assert batch.cost == self.prices.given.cost(len(tickets), max(one.size for one in tickets))
        assert batch.cost <= self.prices.most or len(tickets) == 1
        # The oldest of the lane is in it, and nobody from further behind than the window of its lane and kind.
        assert next(one for one in self.waiting if one.lane == batch.lane) in tickets
        for place, lane in enumerate(LANES):
            window = [one for one in self.waiting if (one.lane, one.kind) == (lane, batch.kind)][:WINDOW]
            mine = {one for one in tickets if one.lane == lane}
            assert mine <= set(window)
            assert not mine or place >= LANES.index(batch.lane)
        self.served += batch.tickets
        self.waiting = [one for one in self.waiting if one not in tickets]

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        in_lanes = sum(self.schedule.waiting(lane) for lane in LANES)
        assert in_lanes + len(self.served) + len(self.expired) == self.added
        assert len({*self.served, *self.expired}) == len(self.served) + len(self.expired)


TestAnything = Anything.TestCase
TestAnything.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)


@given(
    lane=st.sampled_from(("normal", "bulk")),
    rivals=st.lists(st.tuples(st.sampled_from(LANES), st.integers(1, 77)), min_size=1, max_size=4),
    forward=st.floats(0.01, 3.0),
)
@settings(max_examples=30, deadline=None)
def test_no_item_starves_whatever_keeps_coming(lane: Lane, rivals: list[tuple[Lane, int]], forward: float) -> None:
    """Before each forward new rivals arrive, more than it can take; still an item's turn comes, and soon."""
    line, _ = schedule()
    mine = ticket(5, lane, "image")
    line.add(mine)
    now = 0.0
    for _ in range(400):
        for rival, size in rivals:
            for _ in range(20):
                line.add(ticket(size, rival, "text", now))
        if mine in taken(line, now).tickets:
            break
        now += forward
    assert now <= 3 * PATIENCE + 6 * forward


@given(forward=st.floats(0.01, 5.0))
@settings(max_examples=30, deadline=None)
def test_an_interactive_item_waits_for_one_aged_batch_at_most(forward: float) -> None:
    line, _ = schedule()
    now = 0.0
    for lane in ("normal", "bulk"):
        for _ in range(200):
            line.add(ticket(70, lane, "text", now))
    now += 10 * PATIENCE
    for _ in range(20):
        call = ticket(3, "interactive", "text", now)
        line.add(call)
        first = taken(line, now)
        now += forward
        assert call in first.tickets or call in taken(line, now).tickets
        now += forward


def test_the_oldest_comes_first_and_beside_it_those_of_its_length() -> None:
    line, _ = schedule()
    sizes = [40, *range(1, 80), 40, 41]
    for size in sizes:
        line.add(ticket(size))
    first = [one.size for one in taken(line).tickets]
    assert first == sorted(first)
    assert 40 in first
    assert max(first) - min(first) < 30
    assert len([size for size in first if size == 40]) == 3


def test_like_items_keep_their_order() -> None:
    line, _ = schedule(Prices(given=Price(0.0, 0.01, 0.0)))
    row = [ticket() for _ in range(25)]
    for one in row:
        line.add(one)
    assert [one for _ in range(3) for one in taken(line).tickets] == row


def test_padding_costs_less_than_the_forward_that_it_spares() -> None:
    """Texts of 5 to 77 tokens: sorted batches read at most a fifth more than what is there."""
    line, _ = schedule()
    for n in range(WINDOW):
        line.add(ticket(5 + n * 37 % 73))
    real = padded = 0
    while (batch := line.take(0.0)) is not None:
        real += sum(one.size for one in batch.tickets)
        padded += len(batch.tickets) * max(one.size for one in batch.tickets)
    assert padded < 1.2 * real


def test_a_lone_item_over_the_budget_runs_alone() -> None:
    line, _ = schedule()
    line.add(ticket(100_000))
    line.add(ticket(5))
    assert [one.size for one in taken(line).tickets] == [100_000]
    assert [one.size for one in taken(line).tickets] == [5]


def test_interactive_work_overtakes_a_prepared_batch_and_not_for_ever() -> None:
    line, _ = schedule()
    for _ in range(1000):
        line.add(ticket(50))
    prepared = line.take(0.0, full_only=True)
    assert prepared is not None
    assert not line.overtakes(prepared, 0.0)
    line.add(ticket(5, "interactive", arrived=0.1))
    assert line.overtakes(prepared, 0.1)
    assert taken(line, 0.1).lane == "interactive"
    line.add(ticket(5, "interactive", arrived=5.0))
    assert not line.overtakes(prepared, 5.0)


def test_bulk_fills_what_is_left_of_an_interactive_batch_where_it_is_nearly_free() -> None:
    for fixed, least, most in (
        (0.02, 10, 60),
        (0.0001, 0, 1),
    ):  # a device that is idle for most of a small batch; a CPU
        line, _ = schedule(Prices(given=Price(fixed, 0.0, 0.00002)))
        for size in [10, 90] * 30:
            line.add(ticket(size, "bulk"))
        line.add(ticket(10, "interactive"))
        batch = taken(line)
        filled = len(batch.tickets) - 1
        assert least <= filled <= most
        assert batch.cost <= STRETCH * Price(fixed, 0.0, 0.00002).cost(1, 10)
        assert all(one.size == 10 for one in batch.tickets)


def test_normal_goes_before_bulk_and_shares_its_last_batch() -> None:
    line, _ = schedule(Prices(given=Price(0.0, 0.01, 0.0)))
    for lane in ("bulk", "normal"):
        for _ in range(15):
            line.add(ticket(lane=lane))
    lanes = [[one.lane for one in taken(line).tickets] for _ in range(3)]
    assert lanes == [["normal"] * 10, ["normal"] * 5 + ["bulk"] * 5, ["bulk"] * 10]


def test_only_a_batch_that_cannot_grow_is_full() -> None:
    line, _ = schedule(Prices(given=Price(0.0, 0.01, 0.0)))
    for _ in range(10):
        line.add(ticket())
    assert line.take(0.0, full_only=True) is None
    line.add(ticket())
    batch = line.take(0.0, full_only=True)
    assert batch is not None
    assert len(batch.tickets) == 10


def test_a_backlog_is_the_time_of_what_waits_in_a_lane() -> None:
    waiting, _ = schedule(Prices(given=Price(fixed=1.0, per_item=0.5, per_unit=0.25)))
    assert waiting.backlog("bulk") == 0
    for size, lane, kind in ((2, "bulk", "text"), (9, "bulk", "text"), (4, "bulk", "image"), (1, "normal", "text")):
        waiting.add(ticket(size, lane, kind))  # type: ignore[arg-type]
    assert waiting.backlog("bulk") == 2 * (0.5 + 2 * 0.25) + (0.5 + 4 * 0.25)
    taken(waiting)
    assert waiting.backlog("normal") == 0


def test_expired_items_are_handed_out_as_such() -> None:
    line, expired = schedule()
    late, timely = ticket(deadline=1.0), ticket(deadline=3.0)
    line.add(late)
    line.add(timely)
    assert taken(line, 2.0).tickets == [timely]
    assert expired == [late]
    assert line.take(2.0) is None


def test_costs_are_what_a_schedule_asks_for() -> None:
    line = Schedule[Ticket](Costs(), lambda _: None)
    line.add(ticket())
    assert taken(line).cost == Price().cost(1, 1)
