"""A private PostgreSQL with pgvector: a child of this process, on a unix socket that only its account can open."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import psycopg

from sightline.embedded.account import named_account, private_folder
from sightline.embedded.binaries import PostgresBinaries, find_postgres
from sightline.embedded.files import open_log, record, tail
from sightline.embedded.place import Place
from sightline.embedded.process import ProcessId, commands, identify, stop_child, stop_strangers, wait_until
from sightline.embedded.spawner import spawn
from sightline.errors import ConfigurationError, ServiceFailed

log = logging.getLogger(__name__)

MAJOR = "18"
NAME = "sightline"  # of the superuser and of the database
_ENVIRONMENT = {"LC_ALL": "C", "PATH": os.defpath}  # nothing of the user's PG* variables

# Written to postgresql.conf by initdb, where an owner may change them.
_SETTINGS = {
    "shared_buffers": "256MB",
    "maintenance_work_mem": "256MB",  # an HNSW graph that outgrows it builds many times slower
    "max_connections": "100",
    "max_wal_size": "2GB",
    "log_line_prefix": "%m [%p] %u@%d ",
    "search_path": "public",  # not "$user": that is the schema sightline, and users' own tables do not belong there
    "timezone": "UTC",
    "log_timezone": "UTC",
}
_FAST_SHUTDOWN = ((signal.SIGINT, 15.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))
_READY_SECONDS = 120.0  # after a crash the log is replayed first


class Postgres:
    """The database server of one stack. `url` and `psql` are set once it is ready."""

    def __init__(self, place: Place, *, durable: bool = True) -> None:
        self._place = place
        self._durable = durable
        self._child: subprocess.Popen[bytes] | None = None
        self.url = ""
        self.psql = Path()

    def start(self) -> None:
        """Stop what a crash left, make the cluster if there is none, start the server and wait until it answers.

        Raises ServiceMissing without the wheel, ServiceFailed with the end of the log when the server does not come up,
        and ConfigurationError when the data is of another major version.
        """
        self.stop_leftovers()
        binaries = find_postgres(self._place)
        self.psql = binaries.program("psql")
        if not self._place.data.exists():
            self._make_cluster(binaries)
        version = (self._place.data / "PG_VERSION").read_text().strip()
        if version != MAJOR:
            raise ConfigurationError(
                f"{self._place.data} is of PostgreSQL {version}, sightline brings {MAJOR}: dump and restore it"
            )
        private_folder(self._place.data, self._place.account)
        sockets = self._place.sockets()
        self.url = f"postgresql://{NAME}@/{NAME}?host={quote(str(sockets))}&port=5432"
        try:
            self._launch(binaries, sockets)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Shut down in the fast mode: sessions end, everything committed is kept. Harder where that takes too long."""
        if self._child is not None:
            stop_child(self._child, _FAST_SHUTDOWN)
            self._child = None
            self.stop_leftovers()
        self._place.drop_sockets()

    def died(self) -> bool:
        """Tell whether the server has ended without being asked to."""
        return self._child is not None and self._child.poll() is not None

    def _launch(self, binaries: PostgresBinaries, sockets: Path) -> None:
        path = self._place.log("postgres")
        began = time.monotonic()
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(sockets),
            "unix_socket_permissions": "0700",
            "port": "5432",
            "cluster_name": self._marker(),
            "dynamic_shared_memory_type": _shared_memory(),
        }
        if not self._durable:
            options |= {"fsync": "off", "full_page_writes": "off"}  # a commit still outlives a killed server
        command = [str(binaries.program("postgres")), "-D", str(self._place.data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        with open_log(path) as out:
            since = os.fstat(out.fileno()).st_size
            self._child = spawn(
                command,
                death_signal=signal.SIGINT,
                account=self._place.account,
                cwd="/",
                env=_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        record(self._place.record("postgres"), self._child.pid)
        reason = self._wait_until_ready()
        if reason:
            raise ServiceFailed(f"PostgreSQL did not start: {reason}. The end of {path}:\n{tail(path, since)}")
        log.info(
            "postgres is ready after %.2f s, pid %d (binaries of wheel %s)",
            time.monotonic() - began,
            self._child.pid,
            binaries.version,
        )

    def _wait_until_ready(self) -> str:
        """Wait for the first answer and make the database; return why that failed, or nothing."""
        assert self._child is not None
        reason = ""
        maintenance = self.url.replace(f"@/{NAME}?", "@/postgres?")
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline:
            if self._child.poll() is not None:
                return f"it ended with status {self._child.returncode}"
            try:
                with psycopg.connect(maintenance, autocommit=True, connect_timeout=5) as db:
                    if db.execute("select from pg_database where datname = %s", [NAME]).fetchone() is None:
                        db.execute(f"create database {NAME}")
            except psycopg.OperationalError as error:  # not listening yet, or replaying the log
                reason = f"it does not answer after {_READY_SECONDS:.0f} s ({error})"
            else:
                return ""
            time.sleep(0.02)
        return reason

    def _make_cluster(self, binaries: PostgresBinaries) -> None:
        """Run initdb beside the final folder and rename, so that a crash leaves no half of a cluster."""
        fresh = self._place.root / "postgres.new"
        shutil.rmtree(fresh, ignore_errors=True)
        runner = self._place.account and named_account()
        private_folder(fresh, runner)
        command = [str(binaries.program("initdb")), "-D", str(fresh), "-U", NAME, "--encoding=UTF8", "--locale=C"]
        # The same order and case rules on every platform, whatever locales are installed.
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--text-search-config=english"]
        command += ["--auth-local=trust", "--auth-host=reject", *([] if self._durable else ["--no-sync"])]
        for name, value in _SETTINGS.items():
            command += ["--set", f"{name}={value}"]
        path = self._place.log("initdb")
        with open_log(path) as out:
            since = os.fstat(out.fileno()).st_size
            initdb = spawn(
                command,
                death_signal=signal.SIGKILL,
                account=runner,
                cwd="/",
                env=_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        try:
            status = initdb.wait()
        finally:
            stop_child(initdb, ((signal.SIGKILL, 5.0),))
        if status != 0:
            raise ServiceFailed(f"initdb failed with status {status}. The end of {path}:\n{tail(path, since)}")
        if self._place.account:
            self._place.account.own(fresh)
        fresh.rename(self._place.data)

    def _marker(self) -> str:
        """Return a name for this very folder, which the command line of each process of the cluster shows.

        A copy of the folder, or the same path in another container, gets another name.
        """
        data = self._place.data.stat()
        key = f"{self._place.data.resolve()}:{data.st_dev}:{data.st_ino}"
        return f"{NAME}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"

    def stop_leftovers(self) -> None:
        """End every process of this cluster (we hold the lock, so it is nobody's), and clear the files that name it.

        Postgres itself takes any living process with the pid in postmaster.pid for a running server, and gives up.
        """
        if self._place.data.exists():
            servers, backends = self._find_processes()
            if servers or backends:
                log.warning("stopping a PostgreSQL of an earlier run, pid %s", [p.pid for p in servers or backends])
            stop_strangers(servers, _FAST_SHUTDOWN)
            wait_until(lambda: not any(self._find_processes()), 1.0)
            stop_strangers(self._find_processes()[1], ((signal.SIGQUIT, 1.0), (signal.SIGKILL, 5.0)))
            if any(self._find_processes()):
                raise ServiceFailed(f"a PostgreSQL of an earlier run on {self._place.data} does not end")
            (self._place.data / "postmaster.pid").unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for file in (self._place.root / "sockets").iterdir():
                file.unlink()
        self._place.record("postgres").unlink(missing_ok=True)

    def _find_processes(self) -> tuple[list[ProcessId], list[ProcessId]]:
        """Return the living servers of this data directory, and their backends."""
        marker = self._marker()
        servers: list[ProcessId] = []
        backends: list[ProcessId] = []
        for pid, words in commands().items():
            is_backend = words[0].startswith("postgres: ")
            if is_backend or Path(words[0]).name == "postgres":
                ours = any(marker in word for word in words) or _works_in(pid, self._place.data)
                identity = identify(pid) if ours else None
                if identity:
                    (backends if is_backend else servers).append(identity)
        return servers, backends


def _works_in(pid: int, folder: Path) -> bool:
    """Tell whether a process has `folder` as its working directory, as all of Postgres's have (Linux only)."""
    try:
        return Path(f"/proc/{pid}/cwd").samefile(folder)
    except OSError:
        return False


def _shared_memory() -> str:
    """Return where parallel index builds share memory: Docker's default of 64 MB at /dev/shm would fail them."""
    if sys.platform != "linux":
        return "posix"
    try:
        roomy = shutil.disk_usage("/dev/shm").total >= 2**30  # noqa: S108 - only asks for its size
    except OSError:
        roomy = False
    return "posix" if roomy else "sysv"
