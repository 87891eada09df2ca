"""MetaCLIP's balancing: what matches, how much is kept, and that it is the same whenever it is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightline.errors import UsageError
from sightline.transfer.balance import Balance, Entries, count_entries

COMMON, RARE, BOTH = "a red circle", "a teal ring", "a red circle, a teal ring"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red circle.", {"red", "red circle"}),
        ("red\tcircle", {"red", "red circle"}),
        ("redcircle, circled", set()),
        ("Red circle", set()),
        ("is it red?", {"red"}),
        ("red, circle", {"red"}),
        ("the sign: co-op", {"co-op"}),
        ("", set()),
    ],
)
def test_an_entry_matches_as_whole_words(text: str, expected: set[str]) -> None:
    assert Entries(["red", "red circle", "co-op", "  ", "a b c d e f g h"]).of(text) == expected


def test_what_is_kept_agrees_with_the_formula() -> None:
    """10,000 common captions, 1,000 rare ones and 1,000 of both, t = 500."""
    texts = [COMMON] * 10_000 + [RARE] * 1000 + [BOTH] * 1000 + ["nothing"] * 100
    entries = Entries(["red circle", "teal ring"])
    counts = count_entries(entries, texts)
    assert counts == {"red circle": 11_000, "teal ring": 2000}
    balance = Balance(entries, counts, 500, "0")
    assert balance.probability(BOTH) == pytest.approx(1 - (1 - 500 / 11_000) * (1 - 500 / 2000))
    for text in (COMMON, RARE, BOTH):
        n = texts.count(text)
        kept = sum(balance.keeps(f"{text} {i}", text) for i in range(n))
        p = balance.probability(text)
        assert kept == pytest.approx(n * p, abs=4 * (n * p * (1 - p)) ** 0.5)
    assert not balance.keeps("any", "nothing"), "a caption that names no entry is left out"


def test_an_entry_that_is_rare_enough_keeps_all() -> None:
    entries = Entries(["teal ring"])
    balance = Balance(entries, {"teal ring": 500}, 500, "0")
    assert all(balance.keeps(str(i), RARE) for i in range(500))


def test_the_choice_is_by_content_entry_and_seed_and_by_nothing_else() -> None:
    def kept(seed: str, phrases: list[str]) -> list[bool]:
        return [Balance(Entries(phrases), {"red": 10}, 5, seed).keeps(str(i), "a red thing") for i in range(200)]

    assert kept("0", ["red", "blue"]) == kept("0", ["blue", "red"])
    assert kept("0", ["red"]) != kept("1", ["red"])


def test_a_file_of_entries_is_read_or_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "entries.txt"
    file.write_text("red\n\nred  circle\n")
    assert len(Entries.read(file)) == 2
    file.write_text("\n \n")
    with pytest.raises(UsageError, match=r"entries\.txt has no entries"):
        Entries.read(file)
    with pytest.raises(UsageError, match=r"absent\.txt cannot be read"):
        Entries.read(tmp_path / "absent.txt")
