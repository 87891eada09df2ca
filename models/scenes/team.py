"""Training in several processes of one machine, each with scenes of its own, which average their gradients.

On CPUs this is faster than one process with as many threads, whose every matrix product waits for the slowest thread.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Team:
    """``size`` processes, of which this is number ``rank``; number 0 keeps the clock, checks and saves."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process keeps the clock."""
        return self.rank == 0

    def average(self, parameters: Iterable[Tensor], seconds: float) -> float:
        """Replace each gradient by its mean over the team; returns the seconds of the one that leads."""
        if self.size == 1:
            return seconds
        grads = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(flat)
        flat /= self.size
        for grad, part in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(part.view_as(grad))
        clock = torch.tensor([seconds], dtype=torch.float64)
        dist.broadcast(clock, src=0)
        return clock.item()


def together(size: int, work: Callable[[Team], None]) -> None:
    """Run ``work``, a function at the top of a module, in a team of ``size`` processes, and wait for all of them."""
    if size == 1:
        work(Team())
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(  # type: ignore[attr-defined]
            _one, args=(size, f"file://{Path(folder).resolve()}/meet", work), nprocs=size, start_method="spawn"
        )


def _one(rank: int, size: int, meet: str, work: Callable[[Team], None]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=size)
    try:
        work(Team(rank, size))
    finally:
        dist.destroy_process_group()


def _end_with_parent() -> None:
    """A team whose command was killed must not go on without it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
