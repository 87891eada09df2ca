"""The batch engine of one model: many threads submit items and wait for their own; one forward runs at a time.

`schedule` decides what goes next, `costs` what it will take, `engine` runs it in three supervised stages (`stage`).
"""

from __future__ import annotations

from workers.engine.costs import Costs
from workers.engine.engine import Engine
from workers.engine.entry import Expired
from workers.engine.schedule import LANES, Lane
from workers.engine.work import Work

__all__ = ["LANES", "Costs", "Engine", "Expired", "Lane", "Work"]
