"""A private Redis: a child of this process, on a free port of 127.0.0.1 behind a random password."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import redis

from sightline.embedded.account import private_folder
from sightline.embedded.binaries import find_redis
from sightline.embedded.files import open_log, record, recorded, tail
from sightline.embedded.place import Place
from sightline.embedded.process import stop_child, stop_strangers
from sightline.embedded.spawner import spawn
from sightline.errors import ServiceFailed

log = logging.getLogger(__name__)

_SHUTDOWN = ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0))
_READY_SECONDS = 60.0
_ATTEMPTS = 5


class Redis:
    """The broker of one stack. `url` is set once it is ready; a restart by `start` keeps it while the port is free."""

    def __init__(self, place: Place, *, durable: bool = True) -> None:
        self._place = place
        self._durable = durable
        self._child: subprocess.Popen[bytes] | None = None
        self._address: tuple[int, str] | None = None
        self.url = ""

    def start(self) -> None:
        """Stop what a crash left, then start the server and wait until it answers.

        Raises ServiceMissing without a program, ServiceFailed with the end of the log when the server does not come up.
        """
        self.stop_leftovers()
        program = find_redis(self._place)
        for attempt in range(_ATTEMPTS):
            reason, end = self._launch(program)
            if not reason:
                return
            if "ddress already in use" in end:  # somebody took the port first, and may have seen the password
                self._address = None
            elif attempt == 0 and any(self._place.redis.iterdir()):
                self._set_aside(end)
            else:
                break
        raise ServiceFailed(f"Redis did not start: {reason}. The end of {self._place.log('redis')}:\n{end}")

    def stop(self) -> None:
        """Ask the server to write its file and end; kill it when it does not."""
        if self._child is not None:
            stop_child(self._child, _SHUTDOWN)
            self._child = None
            self._place.record("redis").unlink(missing_ok=True)

    def died(self) -> bool:
        """Tell whether the server has ended without being asked to."""
        return self._child is not None and self._child.poll() is not None

    def stop_leftovers(self) -> None:
        """End the server that a crashed holder left behind."""
        leftover = recorded(self._place.record("redis"))
        if leftover is not None:
            log.warning("stopping a Redis of an earlier run, pid %d", leftover.pid)
            stop_strangers([leftover], _SHUTDOWN)
        self._place.record("redis").unlink(missing_ok=True)

    def _launch(self, program: Path) -> tuple[str, str]:
        """Start the server once; return why it failed and the end of its log, or two empty strings."""
        if self._address is None:
            self._address = _free_port(), secrets.token_urlsafe(24)
        port, password = self._address
        folder = private_folder(self._place.redis, self._place.account)
        path = self._place.log("redis")
        began = time.monotonic()
        with open_log(path) as out, tempfile.TemporaryFile() as configuration:
            since = os.fstat(out.fileno()).st_size
            configuration.write(self._configuration(port, password).encode())
            configuration.seek(0)
            self._child = spawn(
                [str(program), "-"],  # from standard input: the password is on no command line and in no named file
                death_signal=signal.SIGTERM,
                account=self._place.account,
                cwd=folder,
                env={"LC_ALL": "C", "PATH": os.defpath},
                stdin=configuration,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        record(self._place.record("redis"), self._child.pid)
        self.url = f"redis://default:{password}@127.0.0.1:{port}/0"  # without the name redis-cli -u is refused
        reason = "it was interrupted"
        try:
            reason = self._wait_until_ready()
        finally:
            if reason:
                self.stop()
        if not reason:
            log.info("redis is ready after %.2f s", time.monotonic() - began)
        return reason, tail(path, since) if reason else ""

    def _wait_until_ready(self) -> str:
        assert self._child is not None
        deadline = time.monotonic() + _READY_SECONDS
        reason = ""
        with redis.Redis.from_url(self.url, socket_timeout=0.5) as client:  # a stranger may hold the port
            while time.monotonic() < deadline:
                if self._child.poll() is not None:
                    return f"it ended with status {self._child.returncode}"
                try:
                    client.ping()
                    if self._child.poll() is None:
                        return ""
                except redis.RedisError as error:  # not listening yet, or loading its file
                    reason = f"it does not answer after {_READY_SECONDS:.0f} s ({error})"
                time.sleep(0.02)
        return reason

    def _configuration(self, port: int, password: str) -> str:
        return "\n".join(
            (
                "bind 127.0.0.1",
                f"port {port}",
                f"requirepass {password}",
                "daemonize no",
                "dir .",
                "appendonly yes",
                f"appendfsync {'everysec' if self._durable else 'no'}",
                'save ""',
                "maxmemory-policy noeviction",
                "",
            )
        )

    def _set_aside(self, end: str) -> None:
        """Move a file that Redis cannot read out of the way: the ledger in Postgres rings again for what it held."""
        broken = self._place.root / "redis.broken"
        shutil.rmtree(broken, ignore_errors=True)
        self._place.redis.rename(broken)
        log.warning("redis cannot read its file, which now lies in %s; it starts empty:\n%s", broken, end)


def _free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
