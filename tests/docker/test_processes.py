"""What the containers would run, run as plain processes in their order, with their users and passwords."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
import redis
import yaml

from sightline.client import Sightline
from sightline.embedded.binaries import find_redis
from sightline.embedded.place import find_place
from sightline.embedded.stack import EmbeddedStack
from sightline.settings import Settings
from tests.conftest import make_database
from tests.docker.files import DOCKER, KUBERNETES, compose, filled, of_kind, stage
from tests.pgbouncer import answers
from tests.workers.processes import until

SECRETS = {f"{name}_PASSWORD": f"{name.lower()}123" for name in ("OWNER", "WORKER", "APP", "MONITOR", "REDIS")}
SERVICES = compose()["services"]
LOGINS = ("sightline_worker_login", "sightline_app_login", "sightline_monitor_login")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Site:
    """One machine that plays all containers: names of services are addresses of this machine here."""

    def __init__(self, stack: EmbeddedStack, database_url: str, folder: Path) -> None:
        self.folder = folder
        self.redis_port, self.metrics_port = free_port(), free_port()
        with psycopg.connect(database_url) as connection:
            info = connection.info
            self.postgres = {"host": info.host, "port": str(info.port), "dbname": info.dbname, "user": info.user}
        binaries = [str(stack.psql.parent), str(find_redis(find_place(stack.home)).parent)]
        self.path = os.pathsep.join([*binaries, os.environ["PATH"]])

    def dsn(self, user: str) -> str:
        p = self.postgres
        return f"postgresql://{user}@/{p['dbname']}?host={p['host']}&port={p['port']}"

    def environment(self, service: str) -> dict[str, str]:
        """Of a container, with the addresses of this machine."""
        found = {name: value for name, value in os.environ.items() if not name.startswith("SIGHTLINE_")}
        spec = SERVICES[service]
        if "build" in spec:
            found |= stage(DOCKER / "Dockerfile", spec["build"]["target"])["env"]
        found |= {name: filled(str(value), SECRETS) for name, value in spec.get("environment", {}).items()}
        if "SIGHTLINE_DATABASE_URL" in found:
            user = urlsplit(found["SIGHTLINE_DATABASE_URL"]).username
            assert user is not None
            found["SIGHTLINE_DATABASE_URL"] = self.dsn(self.postgres["user"] if user == "sightline" else user)
        if "SIGHTLINE_REDIS_URL" in found:
            url = urlsplit(found["SIGHTLINE_REDIS_URL"])
            assert (url.hostname, url.port) == ("redis", 6379)
            found["SIGHTLINE_REDIS_URL"] = urlunsplit(
                url._replace(netloc=f"{url.username}:{url.password}@127.0.0.1:{self.redis_port}")
            )
        if "SIGHTLINE_METRICS_PORT" in found:
            found |= {"SIGHTLINE_METRICS_PORT": str(self.metrics_port), "SIGHTLINE_METRICS_HOST": "127.0.0.1"}
        return found | {"PATH": self.path, "OMP_NUM_THREADS": "1", "HF_HOME": str(self.folder / "models")}

    def words(self, service: str) -> list[str]:
        """The command line of a container."""
        spec = SERVICES[service]
        entrypoint = spec.get("entrypoint") or stage(DOCKER / "Dockerfile", spec["build"]["target"])["entrypoint"]
        words = [filled(word, SECRETS) for word in [*entrypoint, *spec.get("command", [])]]
        if words[0] == "sightline":
            return [sys.executable, "-c", "from sightline.cli import main; main()", *words[1:]]
        mounts = dict(volume.split(":")[:2] for volume in spec["volumes"])
        for source, target in mounts.items():
            words = [word.replace(target, str(DOCKER / source)) if source.startswith("./") else word for word in words]
        return words

    def run(self, service: str, *more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.words(service), *more], env=self.environment(service), capture_output=True, text=True, check=False
        )


@pytest.fixture(scope="module")
def site(stack: EmbeddedStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    url = make_database(stack, "template0")
    yield Site(stack, url, tmp_path_factory.mktemp("site"))
    with psycopg.connect(url, autocommit=True) as owner:
        for login in LOGINS:
            owner.execute(f"drop role if exists {login}")


@pytest.fixture(scope="module")
def broker(site: Site) -> Iterator[Site]:
    """Redis as its container starts it."""
    environment = site.environment("redis") | {"REDIS_RUN": str(site.folder), "REDIS_DATA": str(site.folder)}
    command = [*site.words("redis"), "--bind", "127.0.0.1", "--port", str(site.redis_port)]
    with (
        (site.folder / "redis.log").open("wb") as log,
        subprocess.Popen(command, env=environment, stdout=log) as server,
    ):
        health = [word for word in SERVICES["redis"]["healthcheck"]["test"] if word != "CMD"]
        asked = [*health[:1], "-p", str(site.redis_port), *health[1:]]
        until(lambda: subprocess.run(asked, env=environment, capture_output=True, check=False).stdout == b"PONG\n", 20)
        assert b"redis123" not in Path(f"/proc/{server.pid}/cmdline").read_bytes() if sys.platform == "linux" else True
        yield site
        server.terminate()


@pytest.fixture(scope="module")
def prepared(broker: Site) -> Site:
    """Migrated, with logins and a first space: the containers that end, in their order."""
    for service in ("migrate", "space"):
        ended = broker.run(service)
        assert ended.returncode == 0, ended.stderr
    for _ in range(2):  # it is run again whenever a password changes
        p = broker.postgres
        ended = broker.run(
            "logins", "--host", p["host"], "--port", p["port"], "--username", p["user"], "--dbname", p["dbname"]
        )
        assert (ended.returncode, ended.stderr) == (0, "")
    return broker


def test_redis_lets_the_user_work_and_change_nothing(broker: Site) -> None:
    url = broker.environment("worker")["SIGHTLINE_REDIS_URL"]
    with redis.Redis.from_url(url) as user:
        assert user.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        user.lpush("sightline:any", "x")
        user.delete("sightline:any")
        for refused in (
            user.flushall, lambda: user.config_set("maxmemory", 1), lambda: user.keys("*"), lambda: user.get("theirs"),
            user.shutdown, user.acl_list, lambda: user.execute_command("REPLICAOF", "a", "1"),
        ):  # fmt: skip
            with pytest.raises(redis.exceptions.NoPermissionError):
                refused()
    with redis.Redis(port=broker.redis_port) as nobody, pytest.raises(redis.exceptions.AuthenticationError):
        nobody.ping()


@pytest.mark.timeout(300)
def test_the_containers_encode_and_search_with_the_least_of_rights(prepared: Site) -> None:
    log = prepared.folder / "worker.log"
    environment = prepared.environment("worker")
    probe = [sys.executable, *stage(DOCKER / "Dockerfile", "cpu")["healthcheck"][1:]]

    def healthy(page: str) -> bool:
        command = [*probe[:-1], page]
        return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0

    assert not healthy("/livez")
    with (
        log.open("wb") as output,
        subprocess.Popen(prepared.words("worker"), env=environment, stdout=output, stderr=output) as worker,
    ):
        try:
            until(lambda: healthy("/livez"), 90)
            until(lambda: healthy("/readyz"), 90)
            app = {
                "SIGHTLINE_DATABASE_URL": prepared.dsn("sightline_app_login"),
                "SIGHTLINE_REDIS_URL": environment["SIGHTLINE_REDIS_URL"],
            }
            with Sightline(*app.values(), settings=Settings()) as sl:
                job = sl.ingest([{"text": "a red circle"}, {"text": "a blue star"}], collection="shop")
                assert job.wait(timeout=60).done == 2
                hits = sl.search(text="a blue star", modality="text", k=1)
                assert [hit.text for hit in hits] == ["a blue star"]
        finally:
            began = time.monotonic()
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(60) == 0
            assert time.monotonic() - began < int(SERVICES["worker"]["stop_grace_period"].removesuffix("s"))
    said = log.read_text()
    assert "NOPERM" not in said
    assert "permission" not in said.lower()
    for secret in SECRETS.values():
        assert secret not in said


@pytest.mark.skipif(shutil.which("pgbouncer") is None, reason="no pgbouncer here (Debian: apt-get install pgbouncer)")
def test_keda_asks_the_ledger_through_the_pooler_as_it_is_configured(prepared: Site, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o055)
    p, port = prepared.postgres, free_port()
    (tmp_path / "databases.ini").write_text(f"sightline = host={p['host']} port={p['port']} dbname={p['dbname']}\n")
    (tmp_path / "userlist.txt").write_text('"sightline_monitor_login" "monitor123"\n')
    config = (KUBERNETES / "pgbouncer.ini").read_text().replace("/etc/pgbouncer/secret", str(tmp_path))
    config = config.replace("listen_port = 6432", f"listen_port = {port}").replace(
        "listen_addr = *", "listen_addr = 127.0.0.1"
    )
    (tmp_path / "pgbouncer.ini").write_text(config)
    program = shutil.which("pgbouncer")
    assert program is not None
    url = f"postgresql://sightline_monitor_login:monitor123@127.0.0.1:{port}/sightline"
    # As the account that may open the server's socket; it refuses to run as root.
    process = subprocess.Popen(
        [program, tmp_path / "pgbouncer.ini"], user=Path(p["host"]).stat().st_uid, stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: answers(url), 10)
        with psycopg.connect(url, autocommit=True, prepare_threshold=None) as monitor:
            for scaled in of_kind("ScaledObject"):
                for trigger in scaled["spec"]["triggers"]:
                    (value,) = monitor.execute(trigger["metadata"]["query"]).fetchone()
                    assert isinstance(value, int)
                    assert value >= 0
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                monitor.execute("delete from sightline.job")
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(url.replace("monitor123", "wrong"))
    finally:
        process.terminate()
        process.wait(10)


def test_the_database_is_asked_whether_it_is_ready_as_the_container_asks(site: Site) -> None:
    p = site.postgres
    health = [word for word in SERVICES["postgres"]["healthcheck"]["test"] if word != "CMD"]
    health[health.index("127.0.0.1")] = p["host"]  # the embedded server listens on a socket alone
    assert subprocess.run([*health, "--port", p["port"]], env={"PATH": site.path}, check=False).returncode == 0


def test_the_compose_file_needs_no_variable_that_has_no_example() -> None:
    example = dict(
        line.lstrip("#").split("=", 1)
        for line in (DOCKER / "env.example").read_text().splitlines()
        if "=" in line and " " not in line
    )
    assert set(SECRETS) <= set(example)
    assert yaml.safe_load((DOCKER / "compose.yaml").read_text())["name"] == "sightline"
