"""Bring a database to the newest schema. Revisions are alembic's; their SQL lies in files, a folder for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import structlog

from sightline.database import translated_errors
from sightline.errors import ServiceMissing, ServiceTooOld
from sightline.revision import difference, migrations_folder, newest_revision, stored_revision

if TYPE_CHECKING:
    from sqlalchemy import Connection

log = structlog.get_logger(__name__)

# alembic and sqlalchemy are imported where they are used: they would double the start of every other command.

MIN_PGVECTOR = (0, 8, 4)
"""Older ones can corrupt or overflow HNSW indexes (pgvector changelog 0.8.2 to 0.8.4)."""


def run_sql_folder(revision: str) -> None:
    """Run every .sql file of a revision in order of its name, in alembic's transaction.

    `{vector}` in a file stands for the schema that holds the pgvector extension.
    """
    from alembic import op
    from sqlalchemy import text

    bind = op.get_bind()
    schema = bind.execute(
        text(
            "select quote_ident(nspname) from pg_extension e join pg_namespace n on n.oid = extnamespace "
            "where extname = 'vector'"
        )
    ).scalar_one()
    driver = bind.connection.driver_connection
    if driver is None:  # pragma: no cover - alembic always hands over an open connection
        raise RuntimeError("migrations need an open connection")
    for file in sorted((migrations_folder() / "sql" / revision).glob("*.sql")):
        driver.execute(file.read_text(encoding="utf-8").replace("{vector}", schema))


def migrate(database_url: str, revision: str = "head") -> str:
    """Upgrade the database to a revision, by default the newest, and return it. Two migrations at once queue up.

    Args:
        database_url: whatever libpq understands, a URL or `host=... dbname=...`.
        revision: where to stop; tests upgrade from older ones.

    Raises:
        ServiceTooOld: pgvector is older than 0.8.4.
        ServiceMissing: the database cannot be reached, has no pgvector to install, or is at a revision that this
            version does not know.
    """
    from sqlalchemy.exc import DBAPIError

    with translated_errors():
        with psycopg.connect(database_url, connect_timeout=10) as connection:
            stored = stored_revision(connection)
        if stored is not None and stored > newest_revision():
            raise ServiceMissing(str(difference(stored)))
        try:
            return _upgrade(database_url, revision)
        except DBAPIError as error:
            if isinstance(error.orig, psycopg.Error):
                raise error.orig from None
            raise


def _upgrade(database_url: str, revision: str) -> str:
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine, text

    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(database_url))
    try:
        with engine.connect() as connection:
            # A session lock, because alembic commits in between; released when the connection closes.
            connection.execute(text("select pg_advisory_lock(hashtextextended('sightline.migrate', 0))"))
            _prepare(connection)
            config = Config()
            config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
            connection.commit()
            _grant_roles(connection)
            reached: str = connection.execute(text("select version_num from sightline.migration")).scalar_one()
            return reached
    finally:
        engine.dispose()


def _grant_roles(connection: Connection) -> None:
    """Make the roles and grant them their rights, also those of what this migration has made."""
    from sqlalchemy import text

    if connection.execute(text("select to_regprocedure('sightline.grant_roles()') is null")).scalar_one():
        return  # an older revision
    missing: list[str] = connection.execute(text("select sightline.grant_roles()")).scalar_one()
    connection.commit()
    if missing:
        log.warning(
            "the database user may not create roles, everything works as the owner; "
            "have a superuser run these statements and migrate again",
            statements="; ".join(f"create role {role}" for role in missing),
        )


def _prepare(connection: Connection) -> None:
    """Create extension and schema, and load pgvector: only then can CREATE FUNCTION name its settings."""
    from sqlalchemy import text
    from sqlalchemy.exc import ProgrammingError

    available = connection.execute(
        text("select exists (select from pg_available_extensions where name = 'vector')")
    ).scalar_one()
    if not available:
        raise ServiceMissing(
            "this Postgres has no pgvector: install it on the server (Debian: postgresql-NN-pgvector, 0.8.4 or newer), "
            "or use an image that has it (pgvector/pgvector)"
        )
    try:
        connection.execute(text("create extension if not exists vector"))
    except ProgrammingError as error:
        if not isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
            raise
        raise ServiceMissing(
            "the database user may not create the extension pgvector: have a superuser run `create extension vector` "
            "in this database, then migrate again"
        ) from error
    version: str = connection.execute(text("select extversion from pg_extension where extname = 'vector'")).scalar_one()
    if tuple(int(part) for part in version.split(".")) < MIN_PGVECTOR:
        raise ServiceTooOld(
            f"pgvector {version} is installed, sightline needs 0.8.4 or newer: alter extension vector update"
        )
    connection.execute(text("create schema if not exists sightline"))
    connection.execute(text("select '[1]'::vector <-> '[1]'::vector"))
    connection.commit()
