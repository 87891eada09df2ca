"""From the ingest of one image to a row that a search finds, on an idle stack, beside the bare forward in alternating rounds.

    python -m benchmarks.ingest_latency [--rounds 150] [--json FILE] [--check]

The clock runs from the call of `ingest` to the first `nearest` that returns the image. Bare forward: decode, prepare and encode the same
image in this process. Target: p95 <= 1 s + the median of the bare forward. The stages are those of the ledger's own times:

    submit     from the call until the chunk is in the ledger (upload of the bytes, the job's rows)
    dispatch   until the dispatcher has seen and published it
    claim      until a worker has it
    work       fetch, decode, encode, write, until the commit
    seen       until `nearest` says so
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import random
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from models.encoder import Encoder, load_encoder
from models.scenes.export import export_scenes
from sightline.client import Sightline
from sightline.item import Item
from sightline.services import running_services
from sightline.settings import Settings

LIMIT_MS = 1000.0
COLLECTION = "latency"
LONGEST_SECONDS = 30.0
LOOK_SECONDS = 0.005
"""Between two searches."""


def bare_forward(encoder: Encoder, content: bytes) -> tuple[float, str]:
    """Milliseconds of one image alone, and its vector as a literal. Call it in a thread that does nothing else.

    So does the worker; in the main thread OpenMP waits by spinning, which made it twenty times slower on a busy machine.
    """
    began = time.perf_counter()
    with Image.open(io.BytesIO(content)) as image:
        (vector,) = encoder.encode_images([encoder.prepare_image(np.asarray(image.convert("RGB")))])
    return 1000 * (time.perf_counter() - began), str([float(x) for x in vector])


def until_found(
    client: Sightline, searcher: psycopg.Connection[Any], name: str, content: bytes, vector: str
) -> dict[str, float]:
    """Milliseconds from the call of ingest until a search finds the image, and of the stages."""
    called, began = datetime.now(UTC), time.perf_counter()
    job = client.ingest([Item(data=content, external_id=name)], collection=COLLECTION)
    while True:
        found = searcher.execute(
            "select external_id from sightline.nearest('current', %s, 1, %s)", (vector, COLLECTION)
        ).fetchone()
        total = 1000 * (time.perf_counter() - began)
        if found == (name,):
            break
        if total > 1000 * LONGEST_SECONDS:
            raise SystemExit(f"{name} was not found within {LONGEST_SECONDS:.0f} s: {job.progress()}")
        time.sleep(LOOK_SECONDS)
    times = searcher.execute(
        "select created_at, published_at, claimed_at, finished_at from sightline.chunk where job_id = %s", (job.job_id,)
    ).fetchone()
    assert times is not None
    stages: dict[str, float] = {}
    before = called
    for stage, at in zip(("submit", "dispatch", "claim", "work"), times, strict=True):
        stages[stage] = 1000 * (at - before).total_seconds()
        before = at
    job.wait(timeout=LONGEST_SECONDS)
    return {"ingest to searchable": total, **stages, "seen": total - sum(stages.values())}


def measure(rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each stage in each round."""
    pauses = random.Random(0)
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="sightline-bench-") as folder:
        Path(folder).chmod(0o755)
        export_scenes(Path(folder) / "scenes", rounds + 1, size=224)
        files = [file.read_bytes() for file in sorted((Path(folder) / "scenes").glob("*.png"))]
        encoder = load_encoder("bundled", device="cpu")
        settings = Settings(home=Path(folder) / "home", log_level="warning")
        with (
            running_services(settings) as services,
            Sightline(services.database_url, services.redis_url, settings=settings) as client,
            psycopg.connect(services.database_url, autocommit=True) as searcher,
            ThreadPoolExecutor(1) as engine,
        ):
            client.ingest([Item(data=files[-1], external_id="first")], collection=COLLECTION).wait()
            for number, content in enumerate(files[:rounds]):
                time.sleep(pauses.uniform(0.05, 0.05 + settings.poll_seconds))  # not in step with the dispatcher
                forward, vector = engine.submit(bare_forward, encoder, content).result()
                figures.setdefault("bare forward", []).append(forward)
                for stage, milliseconds in until_found(client, searcher, f"image-{number}", content, vector).items():
                    figures.setdefault(stage, []).append(milliseconds)
    return figures


def summary(values: list[float]) -> dict[str, float]:
    """Smallest, median, 95th percentile and largest."""
    return {
        "min": min(values),
        "median": float(np.median(values)),
        "p95": float(np.percentile(values, 95)),
        "max": max(values),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--check", action="store_true", help="exit with 1 when the target is missed")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    figures = {stage: summary(values) for stage, values in measure(arguments.rounds).items()}
    target = LIMIT_MS + figures["bare forward"]["median"]
    met = figures["ingest to searchable"]["p95"] <= target

    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f} before and {os.getloadavg()[0]:.1f} after"
    table = Table("milliseconds", *summary([0.0]))
    for stage, row in figures.items():
        table.add_row(stage, *(f"{value:,.1f}" for value in row.values()))
    print(f"{arguments.rounds} rounds on {machine}")
    Console(width=100).print(table)
    print(
        f"p95 {figures['ingest to searchable']['p95']:,.0f} ms, target {target:,.0f} ms: {'met' if met else 'MISSED'}"
    )
    if arguments.json:
        document = {
            "machine": machine, "torch": f"{torch.__version__}, {torch.get_num_threads()} threads",
            "rounds": arguments.rounds, "target_ms": target, "met": met, "milliseconds": figures,
        }  # fmt: skip
        arguments.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if arguments.check and not met:
        sys.exit(1)


if __name__ == "__main__":
    main()
