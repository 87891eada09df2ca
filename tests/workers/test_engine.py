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

from workers.engine import BATCH, MAX_WAITING, Engine, Expired
from workers.errors import EncodeFailed, EngineUnavailable


@dataclass(frozen=True)
class Text:
    value: float
    ids: tuple[int, ...] = ()


class Model:
    """Doubles numbers; the gate holds a forward, and `trouble` may raise."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.batches: list[list[float]] = []
        self.trouble: Callable[[list[float]], None] = lambda _: None

    def encode_texts(self, texts: Sequence[Any]) -> np.ndarray:
        return self._forward([text.value for text in texts])

    def encode_images(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        return self._forward([float(image) for image in pixels])

    def _forward(self, values: list[float]) -> np.ndarray:
        self.entered.set()
        assert self.gate.wait(10)
        self.batches.append(values)
        self.trouble(values)
        return np.array(values, np.float32)[:, None] * 2


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def engine(model: Model) -> Iterator[Engine]:
    engine = Engine(model, "test")
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


def test_batches_are_bounded_and_of_like_length(engine: Engine, model: Model) -> None:
    held = hold(engine, model)
    futures = engine.submit("text", [Text(n % 7, ids=(0,) * (n % 7)) for n in range(200)])
    model.gate.set()
    results([held, *futures])
    assert max(map(len, model.batches)) <= BATCH["text"]
    assert [value for batch in model.batches[1:] for value in batch] == sorted(n % 7 for n in range(200))


def test_an_interactive_item_overtakes(engine: Engine, model: Model) -> None:
    hold(engine, model)
    rest = engine.submit("text", [Text(1)] * 150)
    model.entered.clear()
    (call,) = engine.submit("text", [Text(99)], "interactive")
    model.gate.set()
    results([call, *rest])
    assert model.batches[1] == [99]


def test_only_the_guilty_item_fails(engine: Engine, model: Model) -> None:
    def trouble(values: list[float]) -> None:
        if 13 in values:
            raise RuntimeError("thirteen")

    model.trouble = trouble
    futures = engine.submit("text", [Text(n) for n in range(64)])
    with pytest.raises(RuntimeError, match="thirteen"):
        futures[13].result(5)
    assert results(futures[:13] + futures[14:]) == [2.0 * n for n in range(64) if n != 13]


def test_out_of_memory_halves_the_batch(engine: Engine, model: Model) -> None:
    class OutOfMemoryError(RuntimeError):
        pass

    def trouble(values: list[float]) -> None:
        if len(values) > 10:
            raise OutOfMemoryError

    model.trouble = trouble
    assert results(engine.submit("text", [Text(n) for n in range(64)])) == [2.0 * n for n in range(64)]


def test_a_wrong_number_of_vectors_is_an_error(engine: Engine, model: Model) -> None:
    model.encode_texts = lambda _: np.zeros((3, 1), np.float32)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"1 items gave vectors of shape \(3, 1\)"):
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


def test_a_dead_thread_fails_what_it_held_and_goes_on(
    engine: Engine, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(_: object) -> None:
        monkeypatch.undo()
        raise SystemExit

    monkeypatch.setattr(engine, "_encode", dying)
    with pytest.raises(EngineUnavailable, match="SystemExit"):
        engine.submit("text", [Text(66)])[0].result(5)
    assert results(engine.submit("text", [Text(1)])) == [2]


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
    assert engine._waiting("rest") <= MAX_WAITING
    model.gate.set()
    thread.join(5)
    assert results(done) == [2.0] * (MAX_WAITING + 200)


def test_close_leaves_no_future_hanging(model: Model) -> None:
    engine = Engine(model, "test")
    held = hold(engine, model)
    futures = engine.submit("text", [Text(1)] * 100) + engine.submit("text", [Text(2)] * 3, "interactive")
    closing = threading.Thread(target=engine.close)
    closing.start()
    model.gate.set()
    closing.join(5)
    results([held])
    for future in futures + engine.submit("text", [Text(1)]):
        with pytest.raises(EngineUnavailable):
            future.result(5)
