"""State folders with awkward paths."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from sightline.embedded import EmbeddedStack, remove_stack


@pytest.fixture
def parent() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="sl-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["n" * 100, "a b,c'd%20é"], ids=["long", "strange"])
def test_awkward_path_gets_a_short_private_socket_folder_that_goes_away(parent: Path, name: str) -> None:
    home = parent / name / "home"
    with EmbeddedStack(home, durable=False) as stack:
        with psycopg.connect(stack.database_url) as db:
            assert db.execute("select 1").fetchone() == (1,)
        sockets = (home / "sockets").readlink()
        assert len(os.fsencode(sockets)) < 80
        assert sockets.stat().st_mode & 0o777 == 0o700
    assert not sockets.exists()
    assert not (home / "sockets").is_symlink()
    remove_stack(home)
    assert [entry.name for entry in home.iterdir()] == ["lock"]


def test_socket_folder_of_a_crash_is_used_again_unless_it_was_swept(parent: Path) -> None:
    home = parent / ("n" * 100)
    with EmbeddedStack(home, durable=False) as stack:
        first = (home / "sockets").readlink()
        (first / "left").touch()
    home.joinpath("sockets").symlink_to(first)  # as after a crash and a sweep of the temporary folder
    with EmbeddedStack(home, durable=False) as stack:
        second = (home / "sockets").readlink()
        assert second != first
        with psycopg.connect(stack.database_url) as db:
            assert db.execute("select 1").fetchone() == (1,)
    remove_stack(home)
