"""Migrations: installing, doing it twice, doing it at once."""

from __future__ import annotations

import threading

import psycopg
import pytest

from sightline.errors import ServiceMissing
from sightline.migrate import migrate
from tests.conftest import make_database


def test_a_second_migration_changes_nothing(database_url: str) -> None:
    snapshot = "select table_name, column_name, data_type from information_schema.columns where table_schema = 'sightline' order by 1, 2"
    with psycopg.connect(database_url, autocommit=True) as connection:
        before = connection.execute(snapshot).fetchall()
        migrate(database_url)
        assert connection.execute(snapshot).fetchall() == before
        assert len(before) > 100


def test_two_migrations_at_once_queue_up(stack, template) -> None:
    url = make_database(stack, "template0")
    revisions: list[str] = []
    threads = [threading.Thread(target=lambda: revisions.append(migrate(url))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert revisions == ["0002"] * 3


def test_the_extension_may_live_in_any_schema(stack, template) -> None:
    url = make_database(stack, "template0")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute('create schema "my Extensions"')
        connection.execute('create extension vector schema "my Extensions"')
        connection.execute(
            f'alter database {connection.info.dbname} set search_path = "$user", public, "my Extensions"'
        )
    migrate(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("select sightline.create_space('toy', 'm', 2)")
        connection.execute("select sightline.alias_space('current', 'toy')")
        connection.execute("select sightline.submit('encode', '{}', 'c', '[{\"text\": \"red\"}]')")
        connection.execute(
            "insert into sightline.embedding (space_id, item_id, generation, norm, modality, vec) "
            "select 1, item_id, 1, 1, 'text', '[1,2]' from sightline.item"
        )
        found = connection.execute(
            "select score from sightline.nearest('current', '[1,2]', modality => 'text')"
        ).fetchall()
        assert found == [(1.0,)]


def test_whatever_libpq_understands_is_a_database(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        info = connection.info
        keywords = f"host={info.host} port={info.port} dbname={info.dbname} user={info.user}"
    assert migrate(keywords) == "0002"


@pytest.mark.parametrize("url", ["mysql://host/db", "postgresql://nobody@127.0.0.1:1/none"])
def test_a_database_that_is_none_is_named_in_one_line(url: str) -> None:
    with pytest.raises(ServiceMissing) as caught:
        migrate(url)
    assert "\n" not in str(caught.value)
