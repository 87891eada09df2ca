"""Alembic environment: runs on the connection that sightline.migrate hands over."""

from __future__ import annotations

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, version_table="migration", version_table_schema="sightline")
with context.begin_transaction():
    context.run_migrations()
