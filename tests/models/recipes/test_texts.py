from __future__ import annotations

import pytest

from models.recipes.texts import MAX_CHARS, clean


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("  a red\t ring \n\n on sand ", "a red ring\non sand"),
        ("a\x00red\x1b[31mring\x7f", "a red [31mring"),
        ("gnir \u202eder a\u202c", "gnir der a"),
        ("in\u200bvisible", "invisible"),
        ("cafe\u0301", "café"),
        ("\ud800broken", "broken"),
        ("\r\n\t ", ""),
    ],
)
def test_only_what_can_be_seen_is_stored(given: str, stored: str) -> None:
    assert clean(given) == (stored, False)


def test_a_text_without_end_is_cut_and_says_so() -> None:
    text, cut = clean("a " * MAX_CHARS)
    assert cut
    assert len(text) <= MAX_CHARS
