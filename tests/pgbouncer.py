"""A PgBouncer in front of a database."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg

from tests.workers.processes import until


@contextlib.contextmanager
def pgbouncer(database_url: str, mode: str, **settings: object) -> Iterator[str]:
    """Start one; its URL.

    Args:
        mode: session, transaction or statement.
        settings: of the section [pgbouncer].
    """
    program = shutil.which("pgbouncer")
    assert program is not None
    with psycopg.connect(database_url) as connection:
        host, user = connection.info.host, connection.info.user
        server = f"host={host} port={connection.info.port} dbname={connection.info.dbname} user={user}"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    lines = {
        "listen_addr": "127.0.0.1", "listen_port": port, "unix_socket_dir": "", "pool_mode": mode,
        "auth_type": "any", "query_wait_timeout": 30, **settings,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        file = Path(folder) / "pgbouncer.ini"
        config = "".join(f"{name} = {value}\n" for name, value in lines.items())
        file.write_text(f"[databases]\nthrough = {server}\n[pgbouncer]\n{config}")
        # As the account that may open the server's socket; it refuses to run as root.
        process = subprocess.Popen(
            [program, "-q", file], user=Path(host).stat().st_uid, stderr=subprocess.DEVNULL, start_new_session=True
        )
        url = f"postgresql://{user}@127.0.0.1:{port}/through"
        try:
            until(lambda: answers(url), 10)
            yield url
        finally:
            process.terminate()
            process.wait(5)


def answers(url: str) -> bool:
    """Whether something takes connections there."""
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True
