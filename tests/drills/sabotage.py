"""Faults inside a worker process, by environment variables that only these drills set; the product knows none of them.

A text item orders its own fault: `!kill 7` ends the process when the worker prepares it, `!exit`, `!memory` and
`!interrupt` raise, `!!exit` raises in the forward. What follows the order makes texts differ.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

GATE = "DRILL_GATE"
"""A path: while that file is there, no batch is encoded. Who waits leaves `<path>.<pid>`."""
CLOCK = "DRILL_CLOCK"
"""Seconds that the process's clock is ahead."""
RAISE = "DRILL_RAISE"
"""`module:Class.method:Exception:times`, comma-separated: the first calls raise."""
DRIP = "DRILL_DRIP"
"""A URL: what a file named `*.drip` is fetched from instead, without any time limit."""

_ORDERS: dict[str, type[BaseException]] = {
    "exit": SystemExit, "memory": MemoryError, "interrupt": KeyboardInterrupt,
}  # fmt: skip


def install() -> None:
    """Put the faults in that the environment asks for. Comes before the worker's own code runs."""
    if ahead := os.environ.get(CLOCK):
        _shift_clock(float(ahead))
    for order in filter(None, os.environ.get(RAISE, "").split(",")):
        _raise_first(*order.split(":"))
    if url := os.environ.get(DRIP):
        _drip(url)
    _obey()


def _obey() -> None:
    from models.encoder import Encoder

    ordered: dict[tuple[int, ...], str] = {}
    due: dict[int, str] = {}
    prepare, collate, forward = Encoder.prepare_text, Encoder.collate_texts, Encoder.forward

    def prepare_text(self: Encoder, text: str) -> Any:
        prepared = prepare(self, text)
        if text.startswith("!!"):
            ordered[tuple(prepared.ids)] = text[2:].split(maxsplit=1)[0]
        elif text.startswith("!"):
            _do(text[1:].split(maxsplit=1)[0])
        return prepared

    def collate_texts(self: Encoder, texts: Sequence[Any]) -> Any:
        batch = collate(self, texts)
        due.pop(id(batch), None)  # of one that was put together and not encoded
        for text in texts:
            if order := ordered.get(tuple(text.ids)):
                due[id(batch)] = order
        return batch

    def encode(self: Encoder, batch: Any) -> Any:
        if batch.what == "text":
            _wait_at_gate()
        if order := due.pop(id(batch), None):
            _do(order)
        return forward(self, batch)

    Encoder.prepare_text, Encoder.collate_texts = prepare_text, collate_texts  # type: ignore[method-assign]
    Encoder.forward = encode  # type: ignore[method-assign]


def _do(order: str) -> None:
    if order == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise _ORDERS[order](order)


def _wait_at_gate() -> None:
    gate = os.environ.get(GATE)
    if gate and Path(gate).exists():
        mark = Path(f"{gate}.{os.getpid()}")
        mark.touch()
        while Path(gate).exists():
            time.sleep(0.01)
        mark.unlink(missing_ok=True)


def _shift_clock(ahead: float) -> None:
    """Move time.time, also where modules have bound it by name. Monotonic clocks have no date and stay."""
    real, real_ns = time.time, time.time_ns
    shifted: dict[int, Callable[[], Any]] = {
        id(real): lambda: real() + ahead,
        id(real_ns): lambda: real_ns() + int(ahead * 1e9),
    }
    for module in list(sys.modules.values()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if id(value) in shifted:
                setattr(module, name, shifted[id(value)])


def _raise_first(module: str, path: str, error: str, times: str) -> None:
    owner_name, method = path.split(".")
    owner = getattr(importlib.import_module(module), owner_name)
    real = getattr(owner, method)
    left = [int(times)]

    def raising(*arguments: Any, **named: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise {"SystemExit": SystemExit, "MemoryError": MemoryError}[error](f"{path}: ordered by a drill")
        return real(*arguments, **named)

    setattr(owner, method, raising)


def _drip(url: str) -> None:
    from workers.ingress import Ingress

    real = Ingress.read_uri

    def read_uri(self: Ingress, uri: str, name: str) -> bytes:
        if uri.endswith(".drip"):
            with urllib.request.urlopen(url) as answer:  # noqa: S310 - the drill's own server
                return bytes(answer.read())
        return real(self, uri, name)

    Ingress.read_uri = read_uri  # type: ignore[method-assign]
