"""`sightline eval scenes`, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sightline", "eval", "scenes", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=150)


def test_the_table_is_json_on_request_and_check_says_whether_targets_are_met() -> None:
    done = run("--count", "6", "--seed", "3", "--json", "--check")
    found = json.loads(done.stdout)
    assert found["figures"]["text to image recall@1"]["n"] == 6
    assert found["figures"]["text to image recall@1"]["target"] == 0.6
    assert done.returncode == (1 if found["missed"] else 0), done.stderr


def test_a_seed_outside_the_range_is_a_wrong_use() -> None:
    done = run("--seed", "-1")
    assert done.returncode == 2
    assert "--seed" in done.stderr
