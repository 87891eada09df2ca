"""The worker's SQL by name, read from `queries.sql`."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import LiteralString

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


@cache
def _queries() -> dict[str, LiteralString]:
    parts = _NAME.split(Path(__file__).with_name("queries.sql").read_text(encoding="utf-8"))
    return dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))


def query(name: str) -> LiteralString:
    """The statement under `-- name: <name>`. Raises KeyError when there is none."""
    return _queries()[name]
