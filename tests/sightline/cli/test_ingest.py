"""`sightline ingest` by a login that may submit and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.sightline.cli.conftest import Cli


@pytest.fixture
def producer(database_url: str) -> Iterator[str]:
    """The database as such a login sees it."""
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("select sightline.create_space('toy', 'm', 2), sightline.alias_space('current', 'toy')")
        owner.execute("create role shop_import login in role sightline_producer")
        yield psycopg.conninfo.make_conninfo(database_url, user="shop_import")
        owner.execute("drop role shop_import")


def test_a_producer_ingests_a_folder_from_the_shell(given: Cli, producer: str, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"some bytes")
    (folder / "empty.png").touch()
    for _ in range(2):
        ended = given("ingest", str(folder), "--collection", "c", "--no-wait", database_url=producer)
        assert ended.code == 1  # the empty one
        assert "2 submitted" in ended.out
        assert "empty.png: EmptyFile: " in ended.err
    refused = given("ingest", str(folder), "--collection", "c", "--no-wait", "--prune", database_url=producer)
    assert refused.code == 3
    assert "lacks a right" in refused.err
