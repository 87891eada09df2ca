"""Signed links: when they end, whatever their numbers say."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from workers.links import expired_at

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def test_a_link_that_ended_says_when() -> None:
    assert expired_at("https://h/a?Expires=1700000000&Signature=x", NOW) == datetime(
        2023, 11, 14, 22, 13, 20, tzinfo=UTC
    )
    assert expired_at("https://h/a?Expires=1800000000&Signature=x", NOW) is None


@pytest.mark.parametrize(
    "end", ["100000000000", "100000000000000000", "1" + 30 * "0", "-" + 17 * "9", "soon", "1" * 5000]
)
def test_a_link_that_ends_beyond_the_calendar_has_not_expired(end: str) -> None:
    assert expired_at(f"https://h/a?Expires={end}&Key-Pair-Id=x", NOW) is None
