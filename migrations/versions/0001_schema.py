"""The first schema: items, spaces, embeddings, the ledger and search."""

from __future__ import annotations

from sightline.migrate import run_sql_folder

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_sql_folder(revision)
