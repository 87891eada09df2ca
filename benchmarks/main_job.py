"""The main job against what the machine could do: ratios, measured side by side in alternating rounds.

    python -m benchmarks.main_job [--scenes 1000] [--rounds 5]

served / possible   items/s of a bulk encode from Postgres to Postgres, over the bare loop (decode, prepare, forward) in one
                    process with the worker's own batch size. 1.0 is the ideal.
call overhead       milliseconds of a query encode beyond its bare forward.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from models.encoder import load_encoder
from models.scenes.export import export_scenes
from sightline.client import Sightline
from sightline.item import Item
from sightline.services import running_services
from sightline.settings import Settings
from workers.engine import BATCH


def bare_loop(encoder, files: list[bytes]) -> float:
    """Items per second of decode, prepare and forward, one after the other."""
    began = time.perf_counter()
    for first in range(0, len(files), BATCH["image"]):
        batch = []
        for content in files[first : first + BATCH["image"]]:
            with Image.open(io.BytesIO(content)) as image:
                batch.append(encoder.prepare_image(np.asarray(image.convert("RGB"))))
        encoder.encode_images(batch)
    return len(files) / (time.perf_counter() - began)


def served(client: Sightline, files: list[bytes], round_: int) -> tuple[float, float]:
    """Items per second of the encoding alone, and of ingest and encoding together; content is new in each round."""
    items = [Item(data=content, external_id=f"{round_}-{n}") for n, content in enumerate(files)]
    began = time.perf_counter()
    job = client.ingest(items, collection=f"round {round_}", space=f"round_{round_}")
    now = job.wait()
    whole = time.perf_counter() - began
    assert (now.done, now.failed) == (len(files), 0)
    assert now.finished_at is not None
    assert now.started_at is not None
    return len(files) / (now.finished_at - now.started_at).total_seconds(), len(files) / whole


def call_overhead(client: Sightline, encoder, rounds: int) -> dict[str, float]:
    """Median and 99th percentile of a query encode, and the median of its bare forward, in milliseconds."""
    calls, bare = [], []
    for n in range(rounds):
        text = f"a red star and {n} blue circles"
        began = time.perf_counter()
        client.encode(texts=[text])
        calls.append(1000 * (time.perf_counter() - began))
        began = time.perf_counter()
        encoder.encode_texts([encoder.prepare_text(text)])
        bare.append(1000 * (time.perf_counter() - began))
    return {
        "call_p50_ms": statistics.median(calls),
        "call_p99_ms": float(np.percentile(calls, 99)),
        "forward_p50_ms": statistics.median(bare),
        "overhead_p50_ms": statistics.median(calls) - statistics.median(bare),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sightline-bench-") as folder:
        Path(folder).chmod(0o755)
        export_scenes(Path(folder) / "scenes", arguments.scenes, size=224)
        files = [file.read_bytes() for file in sorted((Path(folder) / "scenes").glob("*.png"))]
        encoder = load_encoder("bundled", device="cpu")
        bare_loop(encoder, files[:64])
        settings = Settings(home=Path(folder) / "home", log_level="warning")
        with running_services(settings) as services:
            with Sightline(services.database_url, services.redis_url, settings=settings) as client:
                ratios, whole_ratios, bare_rates = [], [], []
                for round_ in range(arguments.rounds):
                    with client.database.transaction() as connection:  # a space of its own, so that no vector is reused
                        connection.execute(
                            "select sightline.create_space(%s, s.model, s.dim, s.passport) from sightline.space s where s.name = 'scenes'",
                            (f"round_{round_}",),
                        )
                    bare = bare_loop(encoder, files)
                    encoding, whole = served(client, files, round_)
                    bare_rates.append(bare)
                    ratios.append(encoding / bare)
                    whole_ratios.append(whole / bare)
                calls = call_overhead(client, encoder, arguments.calls)
    figures = {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "scenes": arguments.scenes,
        "rounds": arguments.rounds,
        "bare_items_per_s": statistics.median(bare_rates),
        "served_over_bare": statistics.median(ratios),
        "ingest_and_served_over_bare": statistics.median(whole_ratios),
        **calls,
    }
    print(json.dumps({key: round(v, 3) if isinstance(v, float) else v for key, v in figures.items()}, indent=2))


if __name__ == "__main__":
    main()
