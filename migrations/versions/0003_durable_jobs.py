"""Durable jobs: roles, watched tables, fair dispatch, suspects, and searches asked in SQL."""

from __future__ import annotations

from sightline.migrate import run_sql_folder

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    run_sql_folder(revision)
