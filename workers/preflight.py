"""What must be there before a worker loads anything large."""

from __future__ import annotations

import psycopg
import redis

from sightline.broker import Broker
from sightline.errors import ServiceMissing
from sightline.revision import difference, stored_revision
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
            found = stored_revision(connection)
    except psycopg.Error as error:
        raise ServiceMissing(f"Postgres cannot be used: {' '.join(str(error).split())}") from error
    wrong = difference(found)
    if wrong is not None:
        raise ServiceMissing(wrong)
