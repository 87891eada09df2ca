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


def test_captions_are_measured_beside_the_plain_ones_and_stuffing_does_not_win() -> None:
    """The short form: 20 scenes. Figures of so few say little; what must hold of any number is asserted."""
    command = [
        sys.executable,
        "-m",
        "sightline",
        "eval",
        "captions",
        "--seeds",
        "1",
        "--count",
        "20",
        "--seed",
        "5",
        "--json",
        "--check",
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=400)
    found = json.loads(done.stdout)
    assert done.returncode == (1 if found["missed"] else 0), done.stderr
    assert found["missed"] == []
    rows = found["rows"]
    assert found["absent"] == {}
    assert {row["failed"] for row in rows.values()} == {0}
    plain, stuffed = rows["describe"]["figures"], rows["keyword stuffing (control)"]["figures"]
    assert stuffed["false_share"]["value"] > plain["false_share"]["value"]
    assert stuffed["the bare cosine takes it"]["value"] > stuffed["best-of-n takes it"]["value"]
    true_boxes = rows["fusecap by rules, true boxes"]
    assert true_boxes["gain"] is True
    assert true_boxes["figures"]["false"]["value"] == plain["false"]["value"] == 0
    words = [
        rows[f"painted word: {name}"]["figures"]["named_word"]["value"] for name in ("describe", "fusecap with OCR")
    ]
    assert words[0] < words[1]
