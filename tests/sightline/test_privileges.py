"""The rights of every role on every object are those that somebody has looked at: a change of them is a change of a file."""

from __future__ import annotations

import difflib
from pathlib import Path

import psycopg

from tests.sightline.privileges import rights

GOLDEN = Path(__file__).with_name("privileges.golden.txt")


def test_nobody_gets_a_right_that_was_not_looked_at(connection: psycopg.Connection) -> None:
    stored = GOLDEN.read_text().splitlines()
    changed = [line for line in difflib.unified_diff(stored, rights(connection), lineterm="", n=0) if line[:1] in "+-"]
    hint = "look at each line, then: python -m tests.sightline.privileges > tests/sightline/privileges.golden.txt"
    assert not changed, "\n".join([hint, *changed])


def test_the_snapshot_keeps_to_the_rules() -> None:
    lines = [line.split(": ") for line in GOLDEN.read_text().splitlines()]
    assert not [line for line in lines if line[0] == "public"], "everybody has no right at all"
    for role, name, granted in lines:
        assert name != "schema sightline" or granted == "usage", f"{role} may create objects"
        assert not set(granted.split()) & {"truncate", "references", "trigger", "maintain"}, (role, name)
        if role == "reader" and not name.endswith("()"):
            assert granted in ("select", "usage"), (role, name, granted)
        if role == "producer":
            assert name == "schema sightline" or name.endswith("()"), "producers have functions alone"
        assert not name.startswith("embedding_s"), "no right on partitions: they bypass policies of the parent"


def test_functions_pin_their_search_path_or_act_with_their_callers_rights(connection: psycopg.Connection) -> None:
    loose = connection.execute(
        "select p.proname from pg_proc p where p.pronamespace = 'sightline'::regnamespace and p.prosecdef "
        "and not exists (select from unnest(p.proconfig) c where c like 'search_path=pg_catalog, sightline,%%pg_temp')"
    ).fetchall()
    assert loose == []
