"""What a run leaves: a table on the terminal, JSON, and a block in a page of the documentation."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.row import Row


def machine() -> dict[str, Any]:
    """What the figures were measured on: no absolute figure is a claim without it."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load_before": round(os.getloadavg()[0], 1),
    }


def document(rows: Sequence[Row], about: dict[str, Any], *, short: bool, seconds: float) -> dict[str, Any]:
    """The whole run as JSON values."""
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": about | {"load_after": round(os.getloadavg()[0], 1)},
        "short": short,
        "seconds": round(seconds),
        "rows": [row.to_dict() for row in rows],
    }


def print_table(rows: Sequence[Row]) -> None:
    """The table of ratios."""
    table = Table("measure", "beside", "figure", "min", "max", "target", "", "ours / baseline")
    for row in rows:
        table.add_row(
            row.measure, row.baseline, figure(row, row.value), figure(row, min(row.values)),
            figure(row, max(row.values)), target(row), _verdict(row), _rates(row),
        )  # fmt: skip
    Console(width=180 if not os.isatty(1) else None).print(table)
    for row in rows:
        if row.note:
            print(f"{row.name}: {row.note}")


def figure(row: Row, value: float) -> str:
    """A value in the row's unit."""
    return f"{value:.2f}x" if row.unit == "x" else f"{value:+.1f} ms"


def target(row: Row) -> str:
    """What the figure is to reach."""
    return "" if row.target is None else f"{'≥' if row.at_least else '≤'} {figure(row, row.target)}"


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a run's document."""
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_block(page: Path, name: str, lines: Sequence[str]) -> None:
    """Put generated lines between the markers of a page, in the place of those of an earlier run."""
    begin, end = f"<!-- {name}: begin, generated -->", f"<!-- {name}: end -->"
    text = page.read_text(encoding="utf-8")
    found = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not found.search(text):
        raise SystemExit(f"{page} has no lines {begin} and {end}")
    block = "\n".join([begin, "", *lines, "", end])
    page.write_text(found.sub(lambda _: block, text), encoding="utf-8")


def markdown(content: dict[str, Any]) -> list[str]:
    """A run's document as lines of Markdown."""
    lines = [
        machine_line(content),
        "",
        "| measure | beside | figure (min to max) | target | |",
        "|---|---|---|---|---|",
    ]
    for given in content["rows"]:
        row = Row.from_dict(given)
        spread = f"**{figure(row, row.value)}** ({figure(row, min(row.values))} to {figure(row, max(row.values))})"
        measure = f"{row.measure}: {_rates(row)}"
        lines.append(f"| {measure} | {row.baseline} | {spread} | {target(row)} | {_verdict(row)} |")
    notes = [f"- {given['measure']}: {given['note']}" for given in content["rows"] if given["note"]]
    return lines + (["", *notes] if notes else [])


def machine_line(content: dict[str, Any]) -> str:
    """One sentence about the machine of a run."""
    about = content["machine"]
    return (
        f"Measured {content['when'][:10]} on {about['cores']} cores ({about['processor']}, {about['memory_gib']} GiB, "
        f"{about['gpu'] or 'no GPU'}), Python {about['python']}, torch {about['torch']}, "
        f"load {about['load_before']} before and {about['load_after']} after"
        + (", in the short form: no measurement." if content["short"] else ".")
    )


def _rates(row: Row) -> str:
    return f"{_median(row.ours)} / {_median(row.base)} {row.rate}"


def _median(values: Sequence[float]) -> str:
    value = sorted(values)[len(values) // 2]
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _verdict(row: Row) -> str:
    return {None: "", True: "met", False: "MISSED"}[row.met]


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
