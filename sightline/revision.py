"""Which revision the schema is at, which one this version of sightline needs, and what to do when they differ."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import psycopg


def migrations_folder() -> Path:
    """The migrations: beside the package in a checkout, inside it in the wheel."""
    packaged = Path(str(resources.files("sightline"))) / "_migrations"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parent.parent / "migrations"


def newest_revision() -> str:
    """The revision that this version is written for, by the names of the files: alembic takes long to import."""
    return max(path.name[:4] for path in (migrations_folder() / "versions").glob("[0-9]*.py"))


def stored_revision(connection: psycopg.Connection[Any]) -> str | None:
    """The revision of a database; None when it was never migrated."""
    found = connection.execute("select to_regclass('sightline.migration') is not null as migrated").fetchone()
    if not found or not _only(found):
        return None
    row = connection.execute("select version_num from sightline.migration").fetchone()
    return str(_only(row)) if row else None


def difference(stored: str | None) -> str | None:
    """What to do about a database at this revision; None when it is the one that is needed."""
    newest = newest_revision()
    if stored == newest:
        return None
    if stored is None:
        return "the database has no sightline schema: run `sightline migrate`"
    if stored < newest:
        return f"the database is at schema revision {stored}, this sightline needs {newest}: run `sightline migrate`"
    return f"the database is at schema revision {stored}, newer than this sightline knows ({newest}): upgrade sightline"


def _only(row: Any) -> Any:
    return next(iter(row.values())) if isinstance(row, dict) else row[0]
