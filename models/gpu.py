"""What the GPUs that this process computes on are doing."""

from __future__ import annotations

import sys
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GpuUse:
    """Memory in bytes: `allocated` and `reserved` by this process, `free` and `total` of the card.

    `utilisation` is the part of the last moment in which the card computed, 0 to 1; None where the driver does not say.
    """

    device: str
    allocated: int
    reserved: int
    free: int
    total: int
    utilisation: float | None


def gpus_in_use() -> list[GpuUse]:
    """One entry for each GPU on which this process holds memory; none where it never touched one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return []
    found = []
    for number in range(torch.cuda.device_count()):
        reserved = torch.cuda.memory_reserved(number)
        if reserved == 0:
            continue  # asking more of it would open a context there
        free, total = torch.cuda.mem_get_info(number)
        allocated = torch.cuda.memory_allocated(number)
        found.append(GpuUse(f"cuda:{number}", allocated, reserved, free, total, _utilisation(torch, number)))
    return found


def _utilisation(torch: object, number: int) -> float | None:
    try:
        percent: int = torch.cuda.utilization(number)  # type: ignore[attr-defined] # the module itself
    except Exception:  # noqa: BLE001 - no NVML here, or a driver that does not say: whatever it raises means that
        return None
    return percent / 100
