"""Where a model runs and in which number format."""

from __future__ import annotations

import torch

from models.errors import DeviceUnavailable

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Number formats that a model can be loaded in, by the name that settings and passports use."""


def pick_device(name: str) -> torch.device:
    """The device called `name`; "auto" is the first CUDA device if there is one, else the CPU.

    Raises:
        DeviceUnavailable: torch does not know the name, or this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceUnavailable(f"{name!r} is not a device; use auto, cpu, cuda or cuda:1") from error
    if device.type not in {"cpu", "cuda"}:
        raise DeviceUnavailable(f"device {name!r} is not supported; use auto, cpu, cuda or cuda:1")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceUnavailable(
            f"device {name!r} was asked for, but torch sees {torch.cuda.device_count()} CUDA devices; "
            f"use auto or cpu, or install a torch build for your driver"
        )
    return device


def pick_dtype(name: str | None, device: torch.device) -> str:
    """The number format of the forward: `name`, or float32 on a CPU and bfloat16 on a GPU that computes in it.

    Raises:
        DeviceUnavailable: not one of `DTYPES`.
    """
    if name is None:
        return (
            "bfloat16"
            if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
            else "float32"
        )
    if name not in DTYPES:
        raise DeviceUnavailable(f"dtype {name!r} is not supported; use one of {', '.join(DTYPES)}")
    return name
