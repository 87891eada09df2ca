"""What users stumbled over: Python's `ingest` for producers, refused messages, and filters that must be meant."""

from __future__ import annotations

from sightline.migrate import run_sql_folder

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    run_sql_folder(revision)
