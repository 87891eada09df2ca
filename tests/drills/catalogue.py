"""The drills by name. A drill is a function that takes a stage, breaks something on it and returns the stage's report."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass

from tests.drills.stage import Report, Stage

_MODULES = ("killed", "stopped", "frozen", "redis_faults", "postgres_faults", "messages", "items", "cycles")

Play = Callable[[Stage], Report]


@dataclass(frozen=True)
class Drill:
    """One drill.

    Attributes:
        name: the function's.
        says: the first line of its docstring: what is broken, and what must hold.
        play: the function.
        brief: it is also played by `make test`, with a lease of 4 s.
        needs: a program without which it cannot be played.
    """

    name: str
    says: str
    play: Play
    brief: bool
    needs: str | None

    @property
    def missing(self) -> str | None:
        """The program that it needs and that is not here."""
        return self.needs if self.needs and shutil.which(self.needs) is None else None


_drills: dict[str, Drill] = {}

BRIEF: dict[str, object] = {"lease_seconds": 4, "drain_seconds": 8}
"""Settings of a brief play; else all are the product's defaults."""


def drill(*, brief: bool = False, needs: str | None = None) -> Callable[[Play], Play]:
    """Enter a function into the catalogue."""

    def enter(play: Play) -> Play:
        name = play.__name__
        assert play.__doc__ is not None
        assert name not in _drills
        _drills[name] = Drill(name, play.__doc__.strip().split("\n", 1)[0], play, brief, needs)
        return play

    return enter


def drills() -> dict[str, Drill]:
    """All drills by name, in the order of their files."""
    for module in _MODULES:
        importlib.import_module(f"tests.drills.{module}")
    return _drills
