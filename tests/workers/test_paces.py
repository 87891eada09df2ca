"""A worker's own speed: what the ledger's backlog costs is told by it."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest

from workers.ledger import ClaimedChunk
from workers.paces import ENOUGH, Paces


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def chunk(items: int, space_id: int = 1) -> ClaimedChunk:
    return ClaimedChunk(1, 1, list(range(items)), space_id, "normal", 0, 1)


def test_a_pace_is_busy_time_by_items_and_idle_time_does_not_count() -> None:
    clock = Clock()
    paces = Paces(clock)

    def work(_: object, chunks: object) -> None:
        clock.now += 2.0

    run = paces.timed("encode", work)
    for _ in range(3):
        run(None, [chunk(40)])
        clock.now += 1000.0
    assert paces.describe() == {"encode/1": pytest.approx(0.05)}


def test_messages_at_once_share_the_time() -> None:
    clock = Clock()
    paces = Paces(clock)

    def inner(_: object, chunks: object) -> None:
        clock.now += 1.0

    def outer(_: object, chunks: object) -> None:
        clock.now += 1.0
        paces.timed("encode", inner)(None, [chunk(50)])

    paces.timed("encode", outer)(None, [chunk(50)])
    assert paces.describe() == {"encode/1": pytest.approx(0.02)}


def test_work_that_fails_counts_for_nothing_and_few_items_tell_nothing() -> None:
    clock = Clock()
    paces = Paces(clock)

    def fails(_: object, chunks: object) -> None:
        clock.now += 500.0
        raise RuntimeError

    with pytest.raises(RuntimeError):
        paces.timed("encode", fails)(SimpleNamespace(), [chunk(64)])
    paces.timed("encode", lambda _, __: None)(SimpleNamespace(), [chunk(ENOUGH - 1)])
    assert paces.describe() == {}
    paces.timed("encode", lambda _, __: None)(SimpleNamespace(), [chunk(1)])
    assert paces.describe() == {"encode/1": 0.0}


def test_what_is_long_ago_counts_less() -> None:
    clock = Clock()
    paces = Paces(clock)
    step = [1.0]

    def work(_: object, chunks: object) -> None:
        clock.now += step[0]

    run = paces.timed("encode", work)
    for _ in range(1000):
        run(None, [chunk(10)])  # 0.1 s an item
    step[0] = 10.0
    for _ in range(100):
        run(None, [chunk(10)])  # now 1 s
    assert paces.describe()["encode/1"] == pytest.approx(1.0, abs=0.2)


def test_what_went_back_to_the_ledger_is_not_counted() -> None:
    clock = Clock()
    paces = Paces(clock)

    def work(_: object, chunks: object) -> Counter[str]:
        clock.now += 8.0
        return Counter(done=15, failed=1)

    paces.timed("caption", work)(None, [chunk(16), chunk(16)])
    assert paces.describe() == {"caption/1": pytest.approx(0.5)}
