"""The benchmarks run: every row of the table yields figures. How large they are is no matter of a test."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import gpu, recall
from benchmarks.checkpoints import VIT_B_32, Shape, build
from benchmarks.landscape import Landscape
from benchmarks.report import markdown, write_block
from benchmarks.row import Row, alternate, ratio_row
from models.encoder import load_encoder

ROOT = Path(__file__).resolve().parents[2]
ROWS = {
    "bulk-vit", "plain-vit", "calls-vit", "bulk-bundled", "plain-bundled", "calls-bundled", "query-vit", "query-bundled",
    "search", "busy", "texts", "persist", "submit",
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


def test_vectors_to_search_in_lie_as_they_are_said_to() -> None:
    landscape = Landscape(5000)
    images = np.vstack(list(landscape.blocks())).astype(np.float32)
    again = np.vstack(list(Landscape(5000).blocks())).astype(np.float32)
    assert np.array_equal(images, again)
    assert np.allclose(np.linalg.norm(images, axis=1), 1, atol=1e-3)
    between = images[:1000] @ images[1000:2000].T
    assert 0.4 < between.mean() < 0.6
    texts, others = (landscape.queries(kind, 200).astype(np.float32) for kind in ("text", "image"))
    assert 0.1 < (texts @ images.T).mean() < 0.35
    assert (others @ images.T).max(1).mean() > (texts @ images.T).max(1).mean() + 0.2  # a gap between the modalities
    assert not (others @ images.T).max() > 0.999  # no query is an image that is stored


def test_true_neighbours_are_those_of_a_comparison_with_every_vector(tmp_path: Path) -> None:
    landscape = Landscape(3000)
    asked = landscape.queries("image", 5)
    images = np.vstack(list(landscape.blocks())).astype(np.float32)
    distances = 1 - asked.astype(np.float32) @ images.T
    for _ in range(2):  # computed, and read again
        truth = recall.true_neighbours(tmp_path, "image", 3000, asked, lambda _: None)
        assert np.array_equal(truth[""], np.argsort(distances, axis=1)[:, :10])
        passing = np.arange(recall.PASSES, 3000, 200)
        assert np.array_equal(truth["0.5 %"], passing[np.argsort(distances[:, passing], axis=1)[:, :10]])


def test_what_a_gpu_would_be_measured_with_runs_on_a_processor_too(tmp_path: Path) -> None:
    tiny = Shape(image=(32, 1, 2, 32), text=(32, 1, 2), dim=16)
    encoder = load_encoder(str(build(tmp_path / "tiny", tiny)), device="cpu")
    assert gpu.bare_forward(encoder, (1, 2), repeat=1) > 0
    assert gpu.matrix_peak(torch.device("cpu"), torch.float32, size=64, repeat=2) > 0
    assert VIT_B_32.image_flops == pytest.approx(8.8e9, rel=0.05)  # 4.4 billion multiplications and additions
