"""The batch engine: order, batches, and that no future is ever left hanging."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from tests.workers.processes import until
from workers.engine import Costs, Engine, Expired, delivery
from workers.engine import engine as engine_module
from workers.engine.costs import Price
from workers.engine.engine import MAX_WAITING, MAX_WAITING_BYTES
from workers.engine.warmup import warm_up
from workers.errors import EncodeFailed, EngineUnavailable


@dataclass(frozen=True)
class Text:
    value: float
    ids: tuple[int, ...] = ()


class Model:
    """Doubles numbers; the gate holds a forward, and `trouble` may raise, in `collate` or in the forward."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.batches: list[list[float]] = []
        self.collated: list[list[float]] = []
        self.trouble: Callable[[list[float]], None] = lambda _: None
        self.trouble_on_the_way: Callable[[list[float]], None] = lambda _: None

    def forward(self, values: list[float]) -> Any:
        self.entered.set()
        assert self.gate.wait(10)
        self.batches.append(values)
        self.trouble(values)
        return np.array(values, np.float32)[:, None] * 2


class Numbers:
    """One kind of work of the model."""

    def __init__(self, model: Model, kind: str) -> None:
        self.model, self.kind = model, kind

    def size(self, prepared: Any) -> int:
        return max(1, len(prepared.ids)) if self.kind == "text" else 1

    def samples(self) -> list[Any]:
        return [Text(1), Text(1, (0,) * 50)] if self.kind == "text" else [np.float32(1)]

    def collate(self, prepared: Sequence[Any]) -> list[float]:
        values = [item.value if self.kind == "text" else float(item) for item in prepared]
        self.model.collated.append(values)
        self.model.trouble_on_the_way(values)
        return values

    def forward(self, batch: list[float]) -> Any:
        return self.model.forward(batch)


@pytest.fixture
def model() -> Model:
    return Model()


class Steady(Costs):
    """Batches of at most 20 items, whatever the forwards of these tests take."""

    def price(self, _: str) -> Price:
        return Price(0.0, 0.005, 0.0)


@pytest.fixture
def costs() -> Costs:
    return Steady()


@pytest.fixture
def engine(model: Model, costs: Costs) -> Iterator[Engine]:
    engine = Engine([Numbers(model, "text"), Numbers(model, "image")], "test", costs)
    yield engine
    model.gate.set()
    engine.close()


def hold(engine: Engine, model: Model) -> Future[np.ndarray]:
    """Block the engine within a forward, so that what comes next waits."""
    model.gate.clear()
    model.entered.clear()
    (first,) = engine.submit("text", [Text(0)])
    assert model.entered.wait(5)
    return first


def results(futures: list[Future[np.ndarray]]) -> list[float]:
    return [float(future.result(5)[0]) for future in futures]


def test_each_item_gets_its_own_vector(engine: Engine) -> None:
    assert results(engine.submit("text", [Text(n) for n in range(200)])) == [2 * n for n in range(200)]
    assert results(engine.submit("image", [np.float32(n) for n in range(70)])) == [2 * n for n in range(70)]


def test_nothing_of_a_kind_that_the_model_does_not_do_is_nothing(engine: Engine) -> None:
    assert engine.submit("pairs", []) == []


def test_batches_are_bounded_and_of_like_length(engine: Engine, model: Model) -> None:
    held = hold(engine, model)
    futures = engine.submit("text", [Text(n % 7, ids=(0,) * (n % 7 + 1)) for n in range(200)])
    model.gate.set()
    results([held, *futures])
    assert max(map(len, model.batches)) == 20
    assert all(batch == sorted(batch) for batch in model.batches)
    assert [len(set(batch)) for batch in model.batches[1:6]] == [1] * 5  # 28 or 29 of each length


def test_an_interactive_item_overtakes(engine: Engine, model: Model) -> None:
    hold(engine, model)
    rest = engine.submit("text", [Text(1)] * 150)
    until(lambda: len(model.collated) == 2)  # one batch is prepared
    (call,) = engine.submit("text", [Text(99)], "interactive")
    model.gate.set()
    results([call, *rest])
    assert 99 in model.batches[1]


def test_the_next_batch_is_prepared_while_one_runs_once_it_is_full(engine: Engine, model: Model) -> None:
    held = hold(engine, model)
    part = engine.submit("text", [Text(n) for n in range(20)])
    time.sleep(0.05)
    assert len(model.collated) == 1  # it could still grow
    rest = engine.submit("text", [Text(20)])
    until(lambda: len(model.collated) == 2)
    assert model.collated[1] == list(range(20))
    assert len(model.batches) == 0
    model.gate.set()
    assert results([held, *part, *rest]) == [2.0 * n for n in [0, *range(21)]]
    assert model.batches[1:] == [list(range(20)), [20.0]]


def test_an_error_on_the_way_to_the_device_is_of_the_guilty_item_alone(engine: Engine, model: Model) -> None:
    def trouble(values: list[float]) -> None:
        if 13 in values:
            raise SystemExit("thirteen")

    model.trouble_on_the_way = trouble
    held = hold(engine, model)
    futures = engine.submit("text", [Text(n) for n in range(64)])
    model.gate.set()
    with pytest.raises(EncodeFailed, match="the model raised SystemExit: thirteen"):
        futures[13].result(5)
    assert results([held, *futures[:13], *futures[14:]]) == [0, *(2.0 * n for n in range(64) if n != 13)]
    assert engine.trouble is None


def test_only_the_guilty_item_fails(engine: Engine, model: Model) -> None:
    def trouble(values: list[float]) -> None:
        if 13 in values:
            raise RuntimeError("thirteen")

    model.trouble = trouble
    futures = engine.submit("text", [Text(n) for n in range(64)])
    with pytest.raises(RuntimeError, match="thirteen"):
        futures[13].result(5)
    assert results(futures[:13] + futures[14:]) == [2.0 * n for n in range(64) if n != 13]


class OutOfMemoryError(RuntimeError):
    """As torch's."""


def test_out_of_memory_halves_the_budget(engine: Engine, model: Model, costs: Costs) -> None:
    def trouble(values: list[float]) -> None:
        if len(values) > 10:
            raise OutOfMemoryError

    model.trouble = trouble
    assert results(engine.submit("text", [Text(n) for n in range(200)])) == [2.0 * n for n in range(200)]
    assert 0.04 < costs.budget("text") < 0.06
    assert sum(len(batch) > 10 for batch in model.batches) <= 3  # found out once, beside what was prepared already


def test_one_item_that_needs_all_memory_costs_the_others_no_budget(engine: Engine, model: Model, costs: Costs) -> None:
    def trouble(values: list[float]) -> None:
        if 13 in values:
            raise MemoryError

    model.trouble = trouble
    futures = engine.submit("text", [Text(n) for n in range(20)])
    with pytest.raises(MemoryError):
        futures[13].result(5)
    assert results(futures[:13] + futures[14:]) == [2.0 * n for n in range(20) if n != 13]
    assert costs.budget("text") == 0.1


def test_a_wrong_number_of_vectors_is_an_error(engine: Engine, model: Model) -> None:
    model.forward = lambda _: np.zeros((3, 1), np.float32)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="1 items gave 3 results"):
        engine.submit("text", [Text(1)])[0].result(5)


def test_a_model_that_wants_to_exit_fails_the_guilty_item_alone(engine: Engine, model: Model) -> None:
    def trouble(values: list[float]) -> None:
        if 66 in values:
            raise SystemExit(3)

    model.trouble = trouble
    futures = engine.submit("text", [Text(n) for n in (65, 66, 67)])
    with pytest.raises(EncodeFailed, match="the model raised SystemExit: 3"):
        futures[1].result(5)
    assert results([futures[0], futures[2]]) == [130, 134]


@pytest.mark.parametrize("stage", ["forward", "deliver"])
def test_a_dead_stage_fails_what_it_held_says_so_and_goes_on(
    engine: Engine, model: Model, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def dying(*_: object, **__: object) -> None:
        monkeypatch.undo()
        raise SystemExit

    monkeypatch.setattr(*{"forward": (Costs, "observe"), "deliver": (delivery, "hand_out")}[stage], dying)
    (lost,) = engine.submit("text", [Text(66)])
    with pytest.raises(EngineUnavailable, match="the engine of test died: SystemExit"):
        lost.result(5)
    assert engine.trouble is not None
    assert f"stage {stage} of the engine of test died: SystemExit" in engine.trouble
    assert results(engine.submit("text", [Text(1)])) == [2]
    until(lambda: engine.trouble is None)


def test_a_dead_preparation_fails_what_it_held_and_goes_on(
    engine: Engine, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = hold(engine, model)

    def dying(_: object) -> None:
        monkeypatch.undo()
        raise SystemExit

    monkeypatch.setattr(engine_module, "Ready", dying)
    lost = engine.submit("text", [Text(n) for n in range(30)])
    for future in lost[:20]:
        with pytest.raises(EngineUnavailable, match="SystemExit"):
            future.result(5)
    model.gate.set()
    assert results([held, *lost[20:]]) == [0, *(2.0 * n for n in range(20, 30))]


def test_a_border_has_the_model_for_itself(engine: Engine, model: Model) -> None:
    held = hold(engine, model)
    rest = engine.submit("text", [Text(1)] * 100)
    seen = engine.at_border(lambda: (threading.current_thread().name, len(model.batches)))
    model.gate.set()
    assert seen.result(5) == ("engine-test-forward", 1)
    with pytest.raises(ZeroDivisionError):
        engine.at_border(lambda: 1 / 0).result(5)
    results([held, *rest])


def test_expired_items_are_dropped_before_the_forward(engine: Engine, model: Model) -> None:
    held = hold(engine, model)
    (late,) = engine.submit("text", [Text(7)], "interactive", deadline=time.monotonic() - 0.01)
    (timely,) = engine.submit("text", [Text(8)], "interactive", deadline=time.monotonic() + 10)
    model.gate.set()
    with pytest.raises(Expired):
        late.result(5)
    assert results([held, timely]) == [0, 16]
    assert all(7 not in batch for batch in model.batches)


def test_a_cancelled_item_is_not_encoded(engine: Engine, model: Model) -> None:
    held = hold(engine, model)
    cancelled, kept = engine.submit("text", [Text(7), Text(8)])
    assert cancelled.cancel()
    model.gate.set()
    assert results([held, kept]) == [0, 16]
    assert all(7 not in batch for batch in model.batches)


def test_a_full_lane_blocks_the_submitter(engine: Engine, model: Model) -> None:
    hold(engine, model)
    done: list[Future[np.ndarray]] = []
    thread = threading.Thread(target=lambda: done.extend(engine.submit("text", [Text(1)] * (MAX_WAITING + 200))))
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()  # back-pressure
    assert engine.waiting("normal") <= MAX_WAITING
    model.gate.set()
    thread.join(5)
    assert results(done) == [2.0] * (MAX_WAITING + 200)


def test_whoever_decodes_is_held_back_while_enough_waits(engine: Engine, model: Model, costs: Costs) -> None:
    assert not engine.hold_back("bulk", 0.0)
    model.gate.clear()
    futures = engine.submit("text", [Text(0)], "bulk")
    assert model.entered.wait(10)
    futures += engine.submit("text", [Text(n) for n in range(4)], "bulk")
    price = costs.price("text")
    enough = 3.5 * (price.per_item + price.per_unit)
    assert not engine.hold_back("bulk", 2 * enough)
    assert not engine.hold_back("normal", 0.0)  # what waits in another lane is nothing to it
    held: list[bool] = []
    holding = threading.Thread(target=lambda: held.append(engine.hold_back("bulk", enough)))
    holding.start()
    holding.join(0.1)
    assert holding.is_alive()
    model.gate.set()
    holding.join(10)
    assert held == [True]
    assert [float(future.result(10)[0]) for future in futures] == [0, 0, 2, 4, 6]


def test_close_leaves_no_future_hanging(model: Model) -> None:
    engine = Engine([Numbers(model, "text")], "test")
    held = hold(engine, model)
    futures = engine.submit("text", [Text(1)] * 100) + engine.submit("text", [Text(2)] * 3, "interactive")
    closing = threading.Thread(target=engine.close)
    closing.start()
    model.gate.set()
    closing.join(5)
    results([held])
    for future in [*futures, *engine.submit("text", [Text(1)]), engine.at_border(lambda: None)]:
        with pytest.raises(EngineUnavailable):
            future.result(5)


def test_pixels_that_wait_are_bounded_in_bytes(engine: Engine, model: Model) -> None:
    held = hold(engine, model)
    pixels = np.zeros(MAX_WAITING_BYTES // 100, np.uint8)

    class Photo(float):
        nbytes = pixels.nbytes

    done: list[Future[np.ndarray]] = []
    thread = threading.Thread(target=lambda: done.extend(engine.submit("image", [Photo(3)] * 200)))
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()
    assert 0 < engine.waiting("normal") <= 100
    model.gate.set()
    thread.join(5)
    assert results([held, *done]) == [0, *[6.0] * 200]


def test_lanes_of_two_jobs_both_move(engine: Engine, model: Model) -> None:
    held = hold(engine, model)
    bulk = engine.submit("text", [Text(1)] * 100, "bulk")
    normal = engine.submit("text", [Text(2)] * 100, "normal")
    model.gate.set()
    results([held, *bulk, *normal])
    rest = [value for batch in model.batches[1:] for value in batch]
    assert rest.index(2) < 20 * 3
    assert rest.count(1) == rest.count(2) == 100


def test_a_warm_up_goes_to_the_largest_batch_and_finds_the_price(model: Model) -> None:
    costs = Costs()
    work = Numbers(model, "text")

    def slow(values: list[float]) -> None:
        time.sleep(0.001 + 0.002 * len(values))

    model.trouble = slow
    warm_up(work, costs)
    assert max(map(len, model.batches)) >= 32
    assert costs.price("text").cost(40, 50) > 0.08


def test_a_warm_up_that_runs_out_of_memory_starts_with_a_smaller_budget(model: Model) -> None:
    def trouble(values: list[float]) -> None:
        time.sleep(0.001 * len(values))
        if len(values) > 8:
            raise OutOfMemoryError

    model.trouble = trouble
    costs = Costs()
    warm_up(Numbers(model, "image"), costs)
    engine = Engine([Numbers(model, "image")], "test", costs)
    model.batches.clear()
    assert results(engine.submit("image", [np.float32(n) for n in range(50)])) == [2.0 * n for n in range(50)]
    engine.close()
    assert max(map(len, model.batches)) <= 8
