"""A disk that is full: one line that says so, nothing that was stored is lost, and the same ingest goes on later."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from sightline.client import Sightline
from sightline.embedded import EmbeddedStack, remove_stack
from sightline.errors import ServiceMissing
from sightline.item import Item
from sightline.migrate import migrate
from sightline.settings import Settings

MIB = 2**20


@pytest.fixture
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk of 160 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk takes root")
    folder = Path("/tmp") / tmp_path_factory.mktemp("disk").name  # noqa: S108 - Postgres' own user must reach it
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", folder], capture_output=True, check=False
    )
    if done.returncode:
        folder.rmdir()
        pytest.skip(f"no disk can be mounted here: {done.stderr.decode().strip()}")
    folder.chmod(0o755)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)
    folder.rmdir()


def test_an_ingest_into_a_full_disk_says_so_and_is_resumed(disk: Path) -> None:
    """Postgres refuses to grow a table, or stops when its log cannot grow: which of them comes first is its own affair."""
    items = [Item(data=os.urandom(4 * MIB), external_id=f"photo {n:02d}") for n in range(40)]
    settings = Settings(home=disk / "home")
    with EmbeddedStack(settings.home, durable=False) as stack:
        migrate(stack.database_url)
        with psycopg.connect(stack.database_url, autocommit=True) as connection:
            connection.execute("select sightline.create_space('toy', 'm', 2)")
        with Sightline(stack.database_url, stack.redis_url, settings=settings) as client:
            with pytest.raises(ServiceMissing, match=r"no disk space left.*run this again|cannot be reached") as caught:
                client.ingest(items, collection="photos", space="toy")
            assert "\n" not in str(caught.value)
    assert "No space left on device" in "".join(log.read_text() for log in settings.home.rglob("*.log"))
    subprocess.run(["mount", "-o", "remount,size=900m", disk], check=True)
    with (
        EmbeddedStack(settings.home, durable=False) as stack,
        Sightline(stack.database_url, stack.redis_url, settings=settings) as client,
    ):
        before = _stored(client)
        assert before < len(items)
        progress = client.ingest(items, collection="photos", space="toy").progress()
        assert (progress.submitted, progress.failed) == (len(items), 0)
        assert _stored(client) == len(items)
    remove_stack(settings.home)


def _stored(client: Sightline) -> int:
    """Items that are there with all of their bytes."""
    with client.database.transaction() as connection:
        row = connection.execute(
            "select count(*) from sightline.item join sightline.blob b on b.digest = blob_digest "
            "where sha256(b.bytes) = b.digest"
        ).fetchone()
    assert row is not None
    return int(row[0])
