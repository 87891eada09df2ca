"""The front door: contracts, re-ingest without rewriting, groups, and control over jobs and queues."""

from __future__ import annotations

from sightline.migrate import run_sql_folder

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_sql_folder(revision)
