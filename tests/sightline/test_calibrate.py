"""Labelled pairs as a person gives them: what is wrong with a file is said with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightline.calibrate import LabelledPair, read_pairs
from sightline.errors import UsageError


def test_pairs_are_read_from_csv(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text('query,external_id,relevant\n"a, b",x.png,1\nc,y.png,False\n', encoding="utf-8")
    assert read_pairs(file) == [LabelledPair("a, b", "x.png", True), LabelledPair("c", "y.png", False)]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("query,relevant\na,1\n", "lacks the column external_id"),
        ("query,external_id,relevant\na,x,maybe\n", "line 2: relevant must be 1 or 0, not 'maybe'"),
        ("query,external_id,relevant\n,x,1\n", "line 2: a pair needs a query"),
        ("query,external_id,relevant\n", "holds no pairs"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, content: str, told: str) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=told):
        read_pairs(file)
