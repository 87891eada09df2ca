"""Items that hang: given up alone, while their neighbours and later items go through."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.workers.processes import until
from workers.decoders import Decoders
from workers.errors import EncodeFailed, EngineUnavailable, Stalled
from workers.items import Item


def items(*names: str) -> list[Item]:
    return [Item(n, 1, "image", name, None, None, None, None, None, encoded=False) for n, name in enumerate(names)]


class Source:
    """Reads an item: those of a name that begins with `hangs` do not end before `gate` is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()

    def read(self, item: Item) -> str:
        if item.external_id.startswith("hangs"):
            self.gate.wait(30)
        if item.external_id == "exits":
            raise SystemExit(1)
        return item.external_id.upper()


@pytest.fixture
def source() -> Iterator[Source]:
    made = Source()
    yield made
    made.gate.set()


@pytest.fixture
def decoders() -> Iterator[Decoders]:
    with closing(Decoders(2, item_seconds=0.3)) as made:
        yield made


def test_items_that_hang_are_given_up_and_the_others_are_not(decoders: Decoders, source: Source) -> None:
    # Both threads hang at first, so the others wait behind them.
    given = items("hangs 1", "hangs 2", "a", "b", "hangs 3", "c")
    assert decoders.each(source.read, given) == [None, None, "A", "B", None, "C"]
    errors = [item.error for item in given]
    assert [type(error) for error in errors] == [Stalled, Stalled, type(None), type(None), Stalled, type(None)]
    assert str(errors[0]) == "hangs 1: reading or decoding it did not end within 0.3 s"
    assert errors[0] is not None
    assert errors[0].retryable
    assert decoders.hung == 3
    assert decoders.each(source.read, items("d")) == ["D"]
    source.gate.set()
    until(lambda: decoders.hung == 0)
    assert given[0].error is errors[0]  # what its thread says later is too late


def test_another_message_in_the_same_threads_is_not_harmed(decoders: Decoders, source: Source) -> None:
    done: list[Any] = []
    beside = threading.Thread(target=lambda: done.extend(decoders.each(source.read, items(*"abcdefgh"))))
    hanging = items("hangs", *"uvwxyz")
    beside.start()
    assert decoders.each(source.read, hanging) == [None, *"UVWXYZ"]
    beside.join(10)
    assert done == list("ABCDEFGH")


def test_an_item_that_wants_to_exit_fails_alone(decoders: Decoders, source: Source) -> None:
    given = items("a", "exits", "b")
    assert decoders.each(source.read, given) == ["A", None, "B"]
    assert isinstance(given[1].error, EncodeFailed)


def test_a_closed_pool_takes_nothing(decoders: Decoders, source: Source) -> None:
    decoders.close()
    with pytest.raises(EngineUnavailable, match="a: the worker is stopping"):
        decoders.each(source.read, items("a"))
