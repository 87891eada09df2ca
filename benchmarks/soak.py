"""What takes long: memory over many items, and searches over many vectors.

    python -m benchmarks.soak                           # both: 100,000 images, 1,000,000 vectors
    python -m benchmarks.soak search --rows 50000       # smaller
    python -m benchmarks.soak memory --items 20000
    python -m benchmarks.soak --check --json FILE --write-docs docs/benchmarks.md

The million vectors are built once (on two cores in about an hour, most of it the index; 6 GB) and kept in `--folder`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import memory, recall
from benchmarks.report import document, machine, machine_line, markdown, print_table, write_block, write_json

FOLDER = Path.home() / ".cache" / "sightline-benchmarks"


def main() -> int:
    """Measure and print; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=("memory", "search"), default=["memory", "search"])
    parser.add_argument("--items", type=int, default=100_000, help="images of the memory run")
    parser.add_argument("--rows", type=int, default=1_000_000, help="vectors of the search run")
    parser.add_argument("--queries", type=int, default=200, help="of each kind")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"where the vectors are kept (default: {FOLDER})")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write-docs", type=Path, metavar="FILE", help="put the tables into this page")
    arguments = parser.parse_args()
    began, about = time.monotonic(), machine()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s: {line}", file=sys.stderr, flush=True)

    rows, cases = [], []
    if "memory" in arguments.what:
        with tempfile.TemporaryDirectory(prefix="sightline-bench-") as folder:
            Path(folder).chmod(0o755)
            rows.append(memory.measure(Path(folder), arguments.items, say))
    if "search" in arguments.what:
        folder = arguments.folder / f"search-{arguments.rows}"
        with recall.built(folder, arguments.rows, say) as stack:
            cases = recall.measure(stack, folder, arguments.rows, arguments.queries, say)
    content = document(rows, about, short=False, seconds=time.monotonic() - began)
    content |= {"vectors": arguments.rows, "queries": arguments.queries, "search": [case.to_dict() for case in cases]}
    missed = [row.name for row in rows if row.met is False] + (recall.problems(cases) if cases else [])
    print_table(rows)
    print_cases(cases)
    print("; ".join(["MISSED", *missed]) if missed else "every target was met")
    if arguments.json:
        write_json(arguments.json, content)
    if arguments.write_docs:
        if rows:
            write_block(arguments.write_docs, "memory", markdown(content))
        if cases:
            write_block(arguments.write_docs, "search", _lines(content, cases))
    return 1 if arguments.check and missed else 0


def print_cases(cases: list[recall.Case]) -> None:
    """The table of searches."""
    table = Table("queries", "filter", "search", "recall@10", "p50 ms", "p99 ms", "fewest rows")
    for case in cases:
        table.add_row(*_cells(case))
    if cases:
        Console(width=120).print(table)


def _lines(content: dict[str, Any], cases: list[recall.Case]) -> list[str]:
    """The table of searches in Markdown, with the ef that each kind of query needs."""
    lines = [
        machine_line(content), "", f"{content['vectors']:,} vectors, {content['queries']} queries of each kind.", "",
        "| queries | filter | search | recall@10 | p50 ms | p99 ms | fewest rows |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    lines += [f"| {' | '.join(_cells(case))} |" for case in cases]
    for kind in dict.fromkeys(case.queries for case in cases):
        best = recall.needed_ef(cases, kind)
        need = f"{best.how.removeprefix('view, ')} ({best.p50_ms:.1f} ms)" if best else f"more than ef {recall.EFS[-1]}"
        lines += ["", f"Queries of kind *{kind}* reach a recall of {recall.GOOD} with {need}."]
    return lines


def _cells(case: recall.Case) -> list[str]:
    return [
        case.queries, case.passing or "none", case.how, f"{case.recall:.4f}", f"{case.p50_ms:.1f}", f"{case.p99_ms:.1f}",
        str(case.fewest),
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
