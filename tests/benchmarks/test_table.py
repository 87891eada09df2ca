"""The benchmarks run: every row of the table yields figures. How large they are is no matter of a test."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.report import markdown, write_block
from benchmarks.row import Row, alternate, ratio_row

ROOT = Path(__file__).resolve().parents[2]
ROWS = {
    "bulk-vit", "plain-vit", "calls-vit", "bulk-bundled", "plain-bundled", "calls-bundled", "query-vit", "query-bundled",
    "search", "busy", "texts", "submit",
}  # fmt: skip


@pytest.mark.timeout(400)
def test_every_row_of_the_table_yields_finite_figures(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table: begin, generated -->\nold\n<!-- table: end -->\nafter\n")
    command = [sys.executable, "-m", "benchmarks", "--short", "--json", tmp_path / "run.json", "--write-docs", page]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SIGHTLINE_")}
    done = subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=380)
    assert done.returncode == 0, done.stderr
    run = json.loads((tmp_path / "run.json").read_text())
    rows = {given["name"]: given for given in run["rows"]}
    assert rows.keys() >= ROWS
    for row in rows.values():
        assert len(row["values"]) >= 2, row
        assert all(math.isfinite(x) and x > 0 for x in row["ours"] + row["base"]), row
        assert math.isfinite(row["value"]), row
        assert row["measure"] in page.read_text()
    assert run["machine"]["cores"] > 0
    assert page.read_text().startswith("before\n")
    assert "old" not in page.read_text()


def test_every_other_round_takes_the_arms_in_the_other_order() -> None:
    seen: list[str] = []
    figures = alternate(3, {name: lambda n, name=name: seen.append(name) or float(n) for name in "ab"})
    assert "".join(seen) == "abbaab"
    assert figures == {"a": [0.0, 1.0, 2.0], "b": [0.0, 1.0, 2.0]}


def test_a_ratio_is_the_median_of_the_rounds_and_is_held_against_its_target() -> None:
    row = ratio_row("r", "this", "that", [8.0, 9.0, 30.0], [10.0, 10.0, 10.0], "items/s", 0.9)
    assert (row.value, row.met) == (0.9, True)
    assert ratio_row("r", "this", "that", [8.0], [10.0], "items/s", 0.9).met is False
    assert ratio_row("r", "this", "that", [8.0], [10.0], "items/s", None).met is None
    more = Row("m", "this", "that", "ms", [4.0, 6.0], [9.0, 11.0], [5.0, 5.0], "ms", 5.0, at_least=False, pooled=5.1)
    assert (more.value, more.met) == (5.1, False)
    assert Row.from_dict(json.loads(json.dumps(row.to_dict()))).to_dict() == row.to_dict()


def test_a_missed_target_says_so_in_the_page(tmp_path: Path) -> None:
    row = ratio_row("r", "this", "that", [8.0], [10.0], "items/s", 0.9, note="because")
    about = {
        "processor": "p",
        "cores": 2,
        "memory_gib": 1,
        "gpu": None,
        "python": "3",
        "torch": "2",
        "load_before": 0,
        "load_after": 0,
    }
    content = {"when": "2026-01-01", "machine": about, "short": True, "rows": [row.to_dict()]}
    lines = markdown(content)
    assert "| this: 8.0 / 10.0 items/s | that | **0.80x** (0.80x to 0.80x) | ≥ 0.90x | MISSED |" in lines
    assert "in the short form: no measurement" in lines[0]
    (tmp_path / "p.md").write_text("nothing")
    with pytest.raises(SystemExit, match="has no lines"):
        write_block(tmp_path / "p.md", "table", lines)
