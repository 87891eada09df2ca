"""docs/bad-input.md explains each class that a failure can have, and none that there is not."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from workers import errors

ROOT = Path(__file__).resolve().parents[2]


def documented() -> list[tuple[str, str, str]]:
    page = (ROOT / "docs" / "bad-input.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|$", page, re.MULTILINE)


def of_the_worker() -> set[str]:
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    return {one.__name__ for one in classes if issubclass(one, errors.ItemError) and one is not errors.ItemError}


def of_the_client() -> set[str]:
    tree = ast.parse((ROOT / "sightline" / "content.py").read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    given = [call.args[{"_Unfit": 0, "_rejected": 1}[call.func.id]] for call in calls  # type: ignore[attr-defined]
             if call.func.id in ("_Unfit", "_rejected")]  # type: ignore[attr-defined]  # fmt: skip
    return {arg.value for arg in given if isinstance(arg, ast.Constant)}


def of_the_database() -> set[str]:
    files = (ROOT / "migrations" / "sql").rglob("*.sql")
    found = [re.findall(r"fail_chunk\([^']*'([A-Z]\w+)'|->>'class', '(\w+)'", file.read_text()) for file in files]
    return {name for names in found for pair in names for name in pair if name}


def test_each_class_of_failure_is_explained_once() -> None:
    assert {"Unreadable", "BadMetadata"} <= of_the_client()
    assert {"WorkerLost", "Unreadable"} <= of_the_database()
    names = [name for name, _, _ in documented()]
    assert len(names) == len(set(names))
    assert set(names) == of_the_worker() | of_the_client() | of_the_database()


def test_each_setting_that_is_named_exists() -> None:
    from sightline.settings import Settings

    page = (ROOT / "docs" / "bad-input.md").read_text(encoding="utf-8")
    for name in re.findall(r"SIGHTLINE_(\w+)", page):
        assert name.lower() in Settings.model_fields
