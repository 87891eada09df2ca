"""The doctor's findings on Redis, clocks, workers and this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from sightline import __version__
from sightline.doctor.clocks import check_clocks, judge
from sightline.doctor.machine import (
    check_cache,
    check_device,
    check_disk,
    check_media_roots,
    check_media_store,
    check_models,
)
from sightline.doctor.redis_server import check_info, connect
from sightline.doctor.workers import check_workers
from sightline.settings import Settings
from tests.sightline.doctor.conftest import by_name


@pytest.fixture
def server(redis_url: str) -> Iterator[redis.Redis]:
    opened = redis.Redis.from_url(redis_url)
    before = {name: opened.config_get(name)[name] for name in ("maxmemory-policy", "maxmemory")}
    yield opened
    for name, value in before.items():
        opened.config_set(name, value)
    opened.close()


def test_a_redis_that_evicts_or_is_full_is_found(server: redis.Redis, redis_url: str) -> None:
    _, found = connect(redis_url)
    assert {check.state for check in found} == {"ok"}
    assert [check.name for check in found] == ["Redis", "Redis eviction", "Redis memory", "Redis persistence"]
    server.config_set("maxmemory-policy", "allkeys-lru")
    assert by_name(check_info(server.info()))["Redis eviction"].state == "warn"
    used = server.info()["used_memory"]
    server.config_set("maxmemory-policy", "noeviction")
    server.config_set("maxmemory", int(used * 1.02))
    assert by_name(check_info(server.info()))["Redis memory"].state == "fail"
    server.config_set("maxmemory", int(used * 1.25))
    assert by_name(check_info(server.info()))["Redis memory"].state == "warn"
    server.config_set("maxmemory", used * 100)
    server.config_set("maxmemory-policy", "volatile-ttl")
    found = check_info(server.info())
    assert by_name(found)["Redis eviction"].state == "fail"
    assert "noeviction" in by_name(found)["Redis eviction"].advice
    assert by_name(found)["Redis memory"].state == "ok"


def test_a_redis_that_cannot_save_is_found(server: redis.Redis) -> None:
    broken = {**server.info(), "rdb_last_bgsave_status": "err"}
    assert by_name(check_info(broken))["Redis persistence"].state == "fail"


def test_an_old_redis_is_found(server: redis.Redis) -> None:
    assert by_name(check_info({**server.info(), "redis_version": "5.0.14"}))["Redis"].state == "fail"


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "redis://:wrong@{address}/0", "nonsense"])
def test_a_redis_out_of_reach_is_one_line(redis_url: str, url: str) -> None:
    address = redis_url.rpartition("@")[2].partition("/")[0]
    opened, (check,) = connect(url.format(address=address))
    assert opened is None
    assert check.state == "fail"
    assert "\n" not in check.found
    assert "wrong" not in check.found  # the password


def test_clocks_are_compared(database_url: str, redis_url: str) -> None:
    opened, _ = connect(redis_url)
    assert opened is not None
    (check,) = check_clocks(database_url, opened)
    opened.close()
    assert check.state == "ok"
    assert "Postgres" in check.found
    assert "Redis" in check.found
    assert judge({"Postgres": 0.1, "Redis": -61.0}).state == "warn"
    assert judge({}).state == "ok"


def worker(connection: psycopg.Connection, name: str, models: list[dict[str, Any]], version: str = __version__) -> None:
    connection.execute(
        "insert into sightline.worker (worker_id, name, pid, slots, free_slots, queues, models, version) "
        "values (gen_random_uuid(), %s, 1, 2, 2, '{encode}', %s, %s)",
        (name, json.dumps(models), version),
    )


def test_workers_their_refusals_and_queues_without_any_are_found(own_database: str) -> None:
    with psycopg.connect(own_database, autocommit=True) as connection:
        assert [check.found.split(":")[0] for check in check_workers(connection)] == ["none is alive"]
        worker(connection, "young", [])
        connection.execute("update sightline.worker set queues = '{}'")
        assert [check.found for check in check_workers(connection)] == ["none is ready: 1 load their models"]
        connection.execute("delete from sightline.worker")
        connection.execute("select sightline.create_space('toy', 'm', 4, pool => 'gpu')")
        connection.execute("select sightline.submit('encode', '{\"space\": \"toy\"}', 'c', '[{\"text\": \"a\"}]')")
        connection.execute("select sightline.pause(collection => 'c')")
        ready = {"space": "a", "state": "ready", "detail": "cpu"}
        refused = [{"space": space, "state": "refused", "detail": "no such file"} for space in ("a", "b")]
        worker(connection, "one", [ready])
        worker(connection, "two", refused, "0.0.1")
        found = by_name(check_workers(connection))
    assert found["workers"].found == "2 alive: one, two"
    assert found["worker versions"].state == "warn"
    assert "two (0.0.1)" in found["worker versions"].found
    assert found["queue encode.gpu"].state == "fail"
    assert found["queue encode.gpu"].advice == "sightline worker --queues encode.gpu"
    assert (found["space a"].state, found["space b"].state) == ("warn", "fail")  # a is served by another
    assert "refused by two: no such file" in found["space b"].found
    assert found["collection c"].advice == "sightline resume --collection c"


def test_a_media_store_that_takes_no_content_is_found(tmp_path: Path) -> None:
    assert check_media_store(Settings()) == []
    assert check_media_store(Settings(media_url=f"file://{tmp_path}/media"))[0].state == "ok"
    assert list((tmp_path / "media").rglob("*/*")) == []  # what it stored to see is gone again
    (tmp_path / "file").write_text("in the way")
    assert check_media_store(Settings(media_url=f"file://{tmp_path}/file"))[0].state == "fail"
    assert "sightline[abfs]" in check_media_store(Settings(media_url="abfs://box@account/media"))[0].found


def test_media_roots_that_cannot_be_read_are_found(tmp_path: Path) -> None:
    assert check_media_roots(Settings())[0].state == "ok"
    closed = tmp_path / "closed"
    closed.mkdir()
    settings = Settings(media_roots=[closed, tmp_path / "gone"])
    closed.chmod(0)
    euid = os.geteuid()
    try:
        if euid == 0:
            os.seteuid(65534)  # nothing is closed to root
        states = [check.state for check in check_media_roots(settings)]
    finally:
        os.seteuid(euid)
        closed.chmod(0o700)
    assert states == ["fail", "fail"]
    assert [check.state for check in check_media_roots(settings)] == ["ok", "fail"]


def test_a_full_disk_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_disk("disk", tmp_path).state in ("ok", "warn", "fail")
    for free, state in ((10 * 2**30, "ok"), (2**30, "warn"), (2**20, "fail")):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: type("Usage", (), {"free": free}))
        assert check_disk("disk", tmp_path).state == state


def test_models_that_are_not_on_this_machine_are_found() -> None:
    models: list[tuple[str, str | None]] = [("bundled", None), ("example/not-there", "main")]
    found = by_name(check_models(models, Settings()))
    assert found["GPU"].state == "ok"
    assert found["models"].state == "warn"
    assert "example/not-there" in found["models"].found
    assert "bundled" not in found["models"].found.partition("example")[0]
    problems = [{"model": "example/not-there", "problem": "not in the local cache"}]
    state = {"problems": problems, "cache": "/cache", "cache_writable": True}
    assert check_cache(state, models, offline=True).state == "fail"
    assert check_cache(state | {"cache_writable": False}, models, offline=False).state == "fail"
    assert check_cache(state | {"cache_writable": False, "problems": []}, models, offline=False).state == "warn"
    assert check_cache(state | {"cache_writable": False, "problems": []}, models, offline=True).state == "ok"


def test_a_gpu_that_is_wanted_and_not_there_is_found() -> None:
    none = {"torch": "2.9", "cuda": None, "devices": [], "problems": []}
    assert check_device(none, "auto").found == "no GPU, CPU is used (torch 2.9)"
    assert "built without CUDA" in check_device(none, "cuda:0").found
    assert check_device(none | {"cuda": "12.8"}, "cuda").state == "fail"
    one = {**none, "cuda": "12.8", "devices": [{"name": "H100", "free_bytes": 2**30, "total_bytes": 80 * 2**30}]}
    assert check_device(one, "auto").state == "warn"
    assert check_device(one, "cpu").state == "ok"
