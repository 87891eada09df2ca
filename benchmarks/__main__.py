"""Measure every row of the table, each beside its baseline, and print ratios.

python -m benchmarks                     # all rows, under 15 minutes on two quiet cores
python -m benchmarks --short             # two rounds of next to nothing: shows that every row can be measured
python -m benchmarks --only bulk query   # some of them
python -m benchmarks --check             # exit with 1 where a target is missed
python -m benchmarks --json FILE --write-docs docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.arena import open_arena
from benchmarks.report import document, machine, markdown, print_table, write_block, write_json
from benchmarks.row import FULL, SHORT, Row

GROUPS = ("bulk", "gpu", "query", "busy", "texts", "persisting", "submit")
"""Modules of this package, each with `measure(arena) -> list[Row]`."""


def main() -> int:
    """Measure and print; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="show that it runs; the figures mean nothing")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS, metavar="NAME", help=", ".join(GROUPS))
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--write-docs", type=Path, metavar="FILE", help="put the table into this page")
    arguments = parser.parse_args()
    began, about = time.monotonic(), machine()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="sightline-bench-") as folder:
        with open_arena(SHORT if arguments.short else FULL, Path(folder)) as arena:
            for group in arguments.only:
                print(f"{time.monotonic() - began:4.0f} s: {group} ...", file=sys.stderr, flush=True)
                rows += importlib.import_module(f"benchmarks.{group}").measure(arena)
    content = document(rows, about, short=arguments.short, seconds=time.monotonic() - began)
    print_table(rows)
    if not about["gpu"]:
        print("no GPU here: ViT-B/32 and ViT-L/14 were not measured")
    missed = [row.name for row in rows if row.met is False]
    print(f"{content['seconds']} s;", f"MISSED: {', '.join(missed)}" if missed else "every target was met")
    if arguments.json:
        write_json(arguments.json, content)
    if arguments.write_docs:
        write_block(arguments.write_docs, "table", markdown(content))
    return 1 if arguments.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
