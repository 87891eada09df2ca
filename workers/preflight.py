"""What must be there before a worker loads anything large."""

from __future__ import annotations

import psycopg
import redis
from alembic.config import Config
from alembic.script import ScriptDirectory

from sightline.broker import Broker
from sightline.errors import ServiceMissing
from sightline.migrate import migrations_folder
from sightline.settings import Settings
from workers.database import connect


def service_urls(settings: Settings) -> tuple[str, str]:
    """The DSNs of Postgres and Redis. Raises ServiceMissing when one is not set."""
    if settings.database_url is None or settings.redis_url is None:
        raise ServiceMissing("a worker needs SIGHTLINE_DATABASE_URL and SIGHTLINE_REDIS_URL; or start `sightline up`")
    return settings.database_url.get_secret_value(), settings.redis_url.get_secret_value()


def check_services(settings: Settings) -> None:
    """Ask both services.

    Raises:
        ServiceMissing: one is not set or cannot be reached, or the schema is not the one this worker is written for.
    """
    database_url, redis_url = service_urls(settings)
    try:
        broker = Broker(redis_url, settings.key_prefix)
        broker.now()
        broker.close()
    except (redis.RedisError, OSError, ValueError) as error:
        raise ServiceMissing(f"Redis cannot be reached: {error}") from error
    try:
        with connect(database_url) as connection:
            found = connection.execute("select to_regclass('sightline.migration') is not null as migrated").fetchone()
            row = None
            if found and found["migrated"]:
                row = connection.execute("select version_num from sightline.migration").fetchone()
    except psycopg.Error as error:
        raise ServiceMissing(f"Postgres cannot be used: {' '.join(str(error).split())}") from error
    _check_revision(row["version_num"] if row else None)


def _check_revision(found: str | None) -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    needed = ScriptDirectory.from_config(config).get_current_head()
    if found != needed:
        raise ServiceMissing(
            f"the database is at schema revision {found or 'none'}, this worker needs {needed}: run `sightline migrate`"
        )
