"""What a search in words costs in SQL, beside the same search by the Python client, in alternating rounds on an idle stack.

python -m benchmarks.ask_in_sql [--rounds 200] [--json FILE]

client   Sightline.search(text=...): a call through Redis, then nearest
new      call sightline.search_text(...) of a text that was never asked: through the ledger, the leading worker and a call
known    the same text once more: answered from the ledger
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
from rich.console import Console
from rich.table import Table

from models.scenes.export import export_scenes
from sightline.client import Sightline
from sightline.services import running_services
from sightline.settings import Settings


def _milliseconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return 1000 * (time.perf_counter() - began)


def measure(sl: Sightline, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each way, round by round."""
    taken: dict[str, list[float]] = {"client": [], "new": [], "known": []}
    with psycopg.connect(sl.database_url, autocommit=True) as connection:
        ask = "call sightline.search_text(%s, 10)"
        for number in range(-10, rounds):  # the first ones warm up
            text = f"a red circle above {number} stars"
            times = {
                "client": _milliseconds(lambda text=text: sl.search(text=text)),  # type: ignore[misc]
                "new": _milliseconds(lambda text=text: connection.execute(ask, (text,))),  # type: ignore[misc]
                "known": _milliseconds(lambda text=text: connection.execute(ask, (text,))),  # type: ignore[misc]
            }
            if number >= 0:
                for way, milliseconds in times.items():
                    taken[way].append(milliseconds)
    return taken


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sightline-bench-") as folder:
        Path(folder).chmod(0o755)
        settings = Settings(home=Path(folder) / "home")
        with (
            running_services(settings) as services,
            Sightline(services.database_url, services.redis_url, settings=settings) as sl,
        ):
            export_scenes(Path(folder) / "scenes", 100, size=96)
            sl.ingest(Path(folder) / "scenes", collection="scenes").wait(timeout=300)
            taken = measure(sl, arguments.rounds)
    table = Table("search in words", "p50 ms", "p95 ms", title=f"{arguments.rounds} rounds, {os.cpu_count()} cores")
    result = {}
    for way, times in taken.items():
        ordered = sorted(times)
        result[way] = {
            "p50": round(statistics.median(times), 1),
            "p95": round(ordered[int(0.95 * (len(ordered) - 1))], 1),
        }
        table.add_row(way, str(result[way]["p50"]), str(result[way]["p95"]))
    Console().print(table)
    if arguments.json:
        about = {"rounds": arguments.rounds, "machine": platform.machine(), "cores": os.cpu_count()}
        arguments.json.write_text(json.dumps(about | result, indent=1) + "\n")


if __name__ == "__main__":
    main()
