"""What is plain to see of an item in bulk never hides what is wrong with it."""

from __future__ import annotations

import itertools
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

DIGEST = "ab" * 32
SOURCES: list[dict[str, Any]] = [
    {}, {"text": "a red star"}, {"text": " \n"}, {"text": ""}, {"text": 5}, {"text": None}, {"uri": "file:///a.png"},
    {"uri": "file://host/a.png"}, {"uri": "https://example.org/a.png"}, {"uri": 1}, {"digest": DIGEST},
    {"digest": DIGEST.upper()}, {"digest": "ab"}, {"digest": None}, {"text": "a", "uri": "file:///a.png"},
    {"text": "a", "digest": DIGEST}, {"uri": "file:///a.png", "digest": DIGEST},
    {"uri": "file:///a.png", "sha256": DIGEST}, {"uri": "file:///a.png", "sha256": "x"}, {"text": "a", "sha256": DIGEST},
]  # fmt: skip
OTHERS: list[dict[str, Any]] = [
    {}, {"external_id": "a"}, {"external_id": ""}, {"external_id": None}, {"external_id": 7},
    {"external_id": "é" * 1001}, {"external_id": "é" * 1000}, {"metadata": {"a": 1}}, {"metadata": []},
    {"metadata": None}, {"group_key": "g"}, {"group_key": ""}, {"group_key": None}, {"group_key": "g" * 2001},
    {"root": "file:///a"}, {"root": ""}, {"root": None}, {"source_tag": "1-2"}, {"colour": "red"},
    {"error": {"class": "A", "message": "b"}}, {"external_id": "a", "error": {"class": "A", "message": "b"}},
]  # fmt: skip


@pytest.mark.parametrize("modalities", [["image", "text"], ["image"], ["text"]])
def test_what_is_plain_has_no_problem(connection: psycopg.Connection, modalities: list[str]) -> None:
    items = [a | b for a, b in itertools.product(SOURCES, OTHERS)] + [5, "a", None, [], True]
    rows = connection.execute(
        "select e.item, sightline.is_plain_item(e.item, %s), sightline.item_problem(e.item, %s, true) "
        "from jsonb_array_elements(%s) e(item)",
        (modalities, modalities, Jsonb(items)),
    ).fetchall()
    assert all(plain is not None for _, plain, _ in rows)
    hidden = [(item, problem) for item, plain, problem in rows if plain and problem is not None]
    # Whether a blob is there is asked apart.
    assert [item for item, problem in hidden if problem != "no blob of this digest was uploaded"] == []
    plain_sources = [item for item, plain, _ in rows if plain and set(item) <= {"text", "uri", "digest"}]
    expected = [{"text": "a red star"}] * ("text" in modalities)
    expected += [{"uri": "file:///a.png"}, {"uri": "https://example.org/a.png"}, {"digest": DIGEST}] * (
        "image" in modalities
    )
    assert plain_sources == expected  # or everything would go the slow way
