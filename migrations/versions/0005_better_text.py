"""Captions, rankings and contexts; golden vectors stored with their space; the index's width set by role."""

from __future__ import annotations

from sightline.migrate import run_sql_folder

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    run_sql_folder(revision)
