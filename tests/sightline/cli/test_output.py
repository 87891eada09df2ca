"""Tables: what does not fit is wrapped by the terminal, never dropped."""

from __future__ import annotations

import pytest
from rich.console import Console

from sightline.cli import output

REASON = "because " * 60 + "so"


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_table_wider_than_the_terminal_loses_nothing(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "out", Console(width=width))
    columns = ["job", "collection", "file", "paused", "reason"]
    output.print_table(columns, [(7, "shop", "photos/a.png", True, REASON)], empty="none")
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == columns
    assert row.split(maxsplit=4) == ["7", "shop", "photos/a.png", "yes", REASON]


def test_a_long_cell_before_the_last_is_cut_and_marked(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(["file", "reason"], [("x" * 100, "why")], empty="none")
    (cut, why) = capsys.readouterr().out.splitlines()[1].split()
    assert (cut, why) == ("x" * 59 + "…", "why")
