"""docs/guarantees.md names every drill, and no other; what it says to type works."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.drills.catalogue import drills

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")


def test_the_page_names_every_drill_and_each_that_it_names_exists() -> None:
    promised = PAGE.split("## What is promised")[1].split("## What is not promised")[0]
    named = {name for name in re.findall(r"`([a-z0-9_]+)`", promised) if "_" in name} - {
        "failed_items",
        "refused_message",
    }
    assert named == set(drills())


def test_the_list_says_what_each_drill_breaks() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "tests.drills", "--list"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = dict(line.split(maxsplit=1) for line in told.stdout.splitlines())
    assert lines == {drill.name: drill.says for drill in drills().values()}


def test_an_unknown_drill_is_an_error_of_usage() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "tests.drills", "killed_softly"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert told.returncode == 2
    assert "there is no drill killed_softly" in told.stderr
