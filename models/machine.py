"""What this machine offers to models: torch, devices, the cache, and which models are there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants

from models.pipeline import open_pipeline


def describe_machine(models: Iterable[tuple[str, str | None]]) -> dict[str, Any]:
    """torch and CUDA versions, devices with their memory in bytes, the cache, and what keeps each model from loading.

    Args:
        models: id or folder, and revision, of the models to look for; set HF_HUB_OFFLINE, or they are fetched.
    """
    devices = []
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        devices.append({"name": torch.cuda.get_device_name(number), "free_bytes": free, "total_bytes": total})
    problems = []
    for model, revision in models:
        try:
            open_pipeline(model, revision)
        except Exception as error:  # noqa: BLE001 - whatever keeps a model from loading is the answer
            problems.append({"model": model, "problem": " ".join(str(error).split())})
    cache = Path(constants.HF_HUB_CACHE)
    return {
        "torch": torch.__version__, "cuda": torch.version.cuda, "devices": devices, "problems": problems,
        "cache": str(cache), "cache_writable": _writable(cache),
    }  # fmt: skip


def _writable(folder: Path) -> bool:
    """Whether this user could put a model there, making the folder if need be."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
