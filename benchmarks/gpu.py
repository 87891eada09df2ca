"""On a GPU: a bulk job beside the bare forward, with the share of what the GPU's matrix units can do."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from benchmarks.arena import Arena
from benchmarks.bulk import NAMES, serve
from benchmarks.checkpoints import VIT_B_32, VIT_L_14
from benchmarks.row import Row, alternate, ratio_row
from models.encoder import Encoder

SHAPES = {"vit_b_32": VIT_B_32, "vit_l_14": VIT_L_14}
BATCHES = (64, 128, 256, 512)


def measure(arena: Arena) -> list[Row]:
    """One row for each of the usual models; none without a GPU."""
    return [_measure_model(arena, model) for model in SHAPES if model in arena.models]


def bare_forward(encoder: Encoder, batches: Sequence[int], repeat: int = 20) -> float:
    """Images per second of forwards of prepared images alone, with the best of several batch sizes."""
    image = encoder.prepare_image(np.full((480, 640, 3), 128, np.uint8))
    rates = []
    for size in batches:
        pixels = [image] * size
        encoder.encode_images(pixels)
        began = time.perf_counter()
        for _ in range(repeat):
            encoder.encode_images(pixels)
        rates.append(size * repeat / (time.perf_counter() - began))
    return max(rates)


def matrix_peak(device: torch.device, dtype: torch.dtype, size: int = 8192, repeat: int = 50) -> float:
    """Operations per second of products of large square matrices: what the matrix units reach here, not on paper."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    for _ in range(3):
        a @ b
    _wait(device)
    began = time.perf_counter()
    for _ in range(repeat):
        a @ b
    _wait(device)
    return float(repeat * 2 * size**3 / (time.perf_counter() - began))


@contextmanager
def utilisation() -> Iterator[list[float]]:
    """Per cent of the time in which the GPU was busy, sampled five times a second; empty without nvidia-smi.

    The list is filled when the block ends.
    """
    seen: list[float] = []
    program = shutil.which("nvidia-smi")
    if program is None:
        yield seen
        return
    command = [program, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=200"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield seen
        finally:
            process.terminate()
            output, _ = process.communicate()
            seen += [float(line) for line in output.splitlines() if line.strip().isdigit()]


def _measure_model(arena: Arena, model: str) -> Row:
    encoder, files = arena.encoder(model), arena.photographs(model)
    serve(arena, model, files[: len(files) // 5])
    with utilisation() as busy:
        rates = alternate(
            arena.scale.rounds,
            {"bare": lambda _: bare_forward(encoder, BATCHES), "served": lambda _: serve(arena, model, files)},
        )
    flops = SHAPES[model].image_flops
    peak = matrix_peak(torch.device(encoder.device), torch.bfloat16)
    share, bare = (statistics.median(rates[arm]) * flops / peak for arm in ("served", "bare"))
    return ratio_row(
        f"gpu-{model}", f"bulk encode from JPEGs, {NAMES[model]}", "the bare forward of prepared images",
        rates["served"], rates["bare"], "items/s", None,
        note=f"{share:.1%} of the {peak / 1e12:.0f} TFLOP/s that matrix products reach here, the bare forward {bare:.1%}"
        + (f"; GPU busy {statistics.mean(busy):.0f} % of the time, both arms together" if busy else ""),
    )  # fmt: skip


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
