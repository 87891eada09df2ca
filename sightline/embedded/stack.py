"""The embedded stack: Postgres and Redis for one state folder, held by one process, found by others."""

from __future__ import annotations

import atexit
import json
import logging
import os
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from sightline.embedded.files import write_private
from sightline.embedded.lock import HomeLock, is_held
from sightline.embedded.place import find_place, prepare_home
from sightline.embedded.postgres import Postgres
from sightline.embedded.redis import Redis
from sightline.errors import ConfigurationError, SightlineError

log = logging.getLogger(__name__)

_FILE = "stack.json"


@dataclass(frozen=True, slots=True)
class StackInfo:
    """How to reach a running stack. `pid` holds it; `data` is Postgres's data; `redis_url` carries a password."""

    home: Path
    pid: int
    started_at: datetime
    data: Path
    psql: Path
    database_url: str
    redis_url: str = field(repr=False)


class EmbeddedStack:
    """A private Postgres and Redis under the state folder `home`, as a context manager.

    ```python
    with EmbeddedStack(Path.home() / ".sightline") as stack:
        psycopg.connect(stack.database_url)
    ```

    One process holds a state folder at a time. `durable=False` is faster, for tests: what is committed outlives
    killed processes, but not a power failure.
    Both servers end with this process, however it ends (Linux; elsewhere the next start ends them).
    """

    def __init__(self, home: Path, durable: bool = True) -> None:
        self.home = home.expanduser().absolute()
        self._durable = durable
        self._undo: ExitStack | None = None
        self._owner = os.getpid()
        self._mutex = threading.RLock()
        self._postgres: Postgres
        self._redis: Redis
        self.info: StackInfo | None = None

    def start(self) -> Self:
        """Start both servers and publish their addresses; what was started is stopped again when a later step fails.

        Raises StackHeld when another process holds the folder, ServiceMissing, ServiceFailed or ConfigurationError.
        """
        with self._mutex, ExitStack() as undo:
            if self._undo is not None:
                return self
            began = time.monotonic()
            home = prepare_home(self.home)
            lock = HomeLock(home)
            lock.acquire()
            undo.callback(lock.release)
            (home / _FILE).unlink(missing_ok=True)  # of a holder that crashed
            place = find_place(home)
            self._owner = os.getpid()
            self._redis = Redis(place, durable=self._durable)
            self._redis.start()
            undo.callback(self._redis.stop)
            self._postgres = Postgres(place, durable=self._durable)
            self._postgres.start()
            undo.callback(self._postgres.stop)
            undo.callback((home / _FILE).unlink, missing_ok=True)
            self._publish(place.data)
            atexit.register(self.stop)
            self._undo = undo.pop_all()
        log.info("the stack in %s is ready after %.2f s", self.home, time.monotonic() - began)
        return self

    def stop(self) -> None:
        """Stop both servers and release the folder; the data stays. Does nothing when stopped, or in a forked child."""
        with self._mutex:
            if self._undo is None or os.getpid() != self._owner:
                return
            undo, self._undo, self.info = self._undo, None, None
            atexit.unregister(self.stop)
            undo.close()

    def heal(self) -> list[str]:
        """Start again each server that has ended by itself, on its old address; return their names.

        To be called every second or so by whoever holds the stack. Raises ServiceFailed when one does not come back.
        """
        with self._mutex:
            if self._undo is None:
                return []
            dead = [server for server in (self._redis, self._postgres) if server.died()]
            for server in dead:
                log.warning("%s ended unexpectedly; starting it again", type(server).__name__)
                server.start()
            if dead:
                self._publish(self._running().data)
            return [type(server).__name__ for server in dead]

    @property
    def database_url(self) -> str:
        """The DSN of Postgres. Raises SightlineError when the stack does not run."""
        return self._running().database_url

    @property
    def redis_url(self) -> str:
        """The DSN of Redis, with its password. Raises SightlineError when the stack does not run."""
        return self._running().redis_url

    @property
    def psql(self) -> Path:
        """The path of a psql that fits the server. Raises SightlineError when the stack does not run."""
        return self._running().psql

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _running(self) -> StackInfo:
        if self.info is None:
            raise SightlineError(f"the stack in {self.home} does not run; call start() first")
        return self.info

    def _publish(self, data: Path) -> None:
        """Write stack.json, from which other processes of this user learn the addresses."""
        started = self.info.started_at if self.info else datetime.now(UTC)
        urls = self._postgres.url, self._redis.url
        self.info = StackInfo(self.home, os.getpid(), started, data, self._postgres.psql, *urls)
        content = {
            "pid": self.info.pid,
            "started_at": started.isoformat(),
            "data": str(data),
            "psql": str(self.info.psql),
            "database_url": self.info.database_url,
            "redis_url": self.info.redis_url,
        }
        write_private(self.home / _FILE, json.dumps(content, indent=2) + "\n")


def running_stack(home: Path) -> StackInfo | None:
    """Return how to reach the stack of a state folder, or None when none runs or it is not ready yet.

    Raises ConfigurationError when the folder belongs to another user.
    """
    home = home.expanduser().absolute()
    try:
        if not is_held(home):
            return None
        content = json.loads((home / _FILE).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise ConfigurationError(
            f"{error.filename} is another user's: this user may not use the stack in {home}"
        ) from error
    return StackInfo(
        home=home,
        pid=content["pid"],
        started_at=datetime.fromisoformat(content["started_at"]),
        data=Path(content["data"]),
        psql=Path(content["psql"]),
        database_url=content["database_url"],
        redis_url=content["redis_url"],
    )


def remove_stack(home: Path) -> None:
    """Delete the data of a state folder for good, wherever it lies. Raises StackHeld while a process holds it."""
    home = home.expanduser().absolute()
    if not home.exists():
        return
    lock = HomeLock(prepare_home(home))
    lock.acquire()
    try:
        place = find_place(home)
        for server in (Postgres(place), Redis(place)):
            server.stop_leftovers()
        place.remove()
    finally:
        lock.release()
