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
from sightline.embedded.place import find_place, prepare_home


@pytest.fixture
def parent() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="sl-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_long_and_strange_path_gets_a_short_private_socket_folder_that_goes_away(parent: Path) -> None:
    home = parent / ("n" * 100) / "a b,c'd%20é" / "home"
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


@pytest.mark.parametrize("name", ["a b", "a,b", "a:b", "a%20b", "é", "n" * 80])
def test_socket_folder_avoids_what_a_dsn_parser_takes_for_syntax(parent: Path, name: str) -> None:
    place = find_place(prepare_home(parent / name))
    sockets = place.sockets()
    assert not sockets.is_relative_to(parent)
    assert place.sockets() == sockets  # as after a crash
    place.drop_sockets()
    assert not sockets.exists()


def test_socket_folder_that_was_swept_or_taken_by_others_is_replaced(parent: Path) -> None:
    place = find_place(prepare_home(parent / ("n" * 80)))
    first = place.sockets()
    first.rmdir()
    second = place.sockets()
    second.chmod(0o777)
    third = place.sockets()
    assert len({first, second, third}) == 3
    second.rmdir()
    place.drop_sockets()
    assert not third.exists()
