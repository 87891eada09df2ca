"""What every part of the client shares: settings, Postgres, Redis and the media store."""

from __future__ import annotations

from functools import cached_property
from typing import Literal, Self

from sightline.broker import Broker
from sightline.database import Database
from sightline.errors import ServiceMissing
from sightline.media import MediaStore
from sightline.settings import Settings, libpq_url

Lane = Literal["interactive", "normal", "bulk"]


class Connection:
    """Opens connections when they are needed; arguments and errors as of `Sightline`."""

    def __init__(
        self, database_url: str | None = None, redis_url: str | None = None, *, settings: Settings | None = None
    ) -> None:
        self.settings = settings or Settings()
        self.database_url, self._redis_url = service_urls(self.settings, database_url, redis_url)
        self.database = Database(self.database_url)
        self._broker: Broker | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self.database.close()
        if self._broker is not None:
            self._broker.close()

    @property
    def broker(self) -> Broker:
        """The Redis side; needed for searches by text or image only."""
        if self._broker is None:
            if self._redis_url is None:
                raise ServiceMissing("searching by text or image needs Redis: set SIGHTLINE_REDIS_URL")
            self._broker = Broker(self._redis_url, self.settings.key_prefix)
        return self._broker

    @cached_property
    def media(self) -> MediaStore | None:
        """Where uploads lie outside of the database; None where SIGHTLINE_MEDIA_URL is not set."""
        return None if self.settings.media_url is None else MediaStore(self.settings.media_url)


def service_urls(settings: Settings, database_url: str | None, redis_url: str | None) -> tuple[str, str | None]:
    """The DSNs to use: arguments, then settings, then the embedded stack that runs under `settings.home`."""
    database_url = database_url or (settings.database_url.get_secret_value() if settings.database_url else None)
    redis_url = redis_url or (settings.redis_url.get_secret_value() if settings.redis_url else None)
    if database_url is None:
        from sightline.embedded.stack import running_stack

        stack = running_stack(settings.home)
        if stack is None:
            raise ServiceMissing(
                f"no embedded stack runs in {settings.home}: start one with `sightline up`, "
                "or set SIGHTLINE_DATABASE_URL and SIGHTLINE_REDIS_URL"
            )
        database_url, redis_url = stack.database_url, redis_url or stack.redis_url
    return libpq_url(database_url), redis_url
