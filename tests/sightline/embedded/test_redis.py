"""The private Redis: ports that others take, files that it cannot read."""

from __future__ import annotations

import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis as client

from sightline.embedded import redis
from sightline.embedded.place import Place, find_place, prepare_home
from sightline.errors import ServiceFailed


@pytest.fixture
def place(home: Path) -> Place:
    return find_place(prepare_home(home))


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which another process listens."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def test_port_that_another_process_took_first_is_replaced_and_so_is_the_password(
    place: Place, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = iter([taken, taken])
    free = redis._free_port
    monkeypatch.setattr(redis, "_free_port", lambda: next(ports, None) or free())
    server = redis.Redis(place)
    server.start()
    with client.Redis.from_url(server.url) as connection:
        assert connection.ping()
    assert f":{taken}/" not in server.url
    server.stop()


def test_file_that_redis_cannot_read_is_set_aside(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    server = redis.Redis(place)
    server.start()
    server.stop()
    (place.redis / "appendonly.aof").write_bytes(b"*9\r\n$broken\r\n" * 40)  # Redis 6
    for file in place.redis.rglob("*.aof.manifest"):  # Redis 7
        file.write_text("broken\n")
    server.start()
    with client.Redis.from_url(server.url) as connection:
        assert connection.dbsize() == 0
    server.stop()
    assert "starts empty" in caplog.text
    assert (place.root / "redis.broken").is_dir()


def test_failure_shows_the_end_of_the_log(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = place.home / "redis-server"
    program.write_text("#!/bin/sh\necho no luck today\nexit 7\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR | stat.S_IXOTH | stat.S_IROTH)
    monkeypatch.setattr(redis, "find_redis", lambda _: program)
    with pytest.raises(ServiceFailed, match=r"ended with status 7\. The end of .*redis\.log:\n  no luck today"):
        redis.Redis(place).start()
    assert not place.record("redis").exists()
