"""Migrations: installing, doing it twice, doing it at once."""

from __future__ import annotations

import threading

import psycopg
import pytest

from sightline.errors import ServiceMissing
from sightline.migrate import migrate
from sightline.revision import newest_revision
from tests.conftest import make_database


def test_a_second_migration_changes_nothing(database_url: str) -> None:
    snapshot = "select table_name, column_name, data_type from information_schema.columns where table_schema = 'sightline' order by 1, 2"
    with psycopg.connect(database_url, autocommit=True) as connection:
        before = connection.execute(snapshot).fetchall()
        migrate(database_url)
        assert connection.execute(snapshot).fetchall() == before
        assert len(before) > 100


CATALOG = """
select 'relation', c.relname, c.relkind::text, case when c.relkind in ('v', 'm') then pg_get_viewdef(c.oid) else '' end
from pg_class c where c.relnamespace = 'sightline'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'S')
union all select 'column', a.attrelid::regclass::text || '.' || a.attname, format_type(a.atttypid, a.atttypmod),
  concat_ws(' ', a.attnotnull, a.attidentity, a.attgenerated, a.attstorage, pg_get_expr(d.adbin, d.adrelid))
from pg_attribute a join pg_class c on c.oid = a.attrelid left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
where c.relnamespace = 'sightline'::regnamespace and a.attnum > 0 and not a.attisdropped
union all select 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid)
from pg_constraint where connamespace = 'sightline'::regnamespace
union all select 'index', indrelid::regclass::text, indexrelid::regclass::text, pg_get_indexdef(indexrelid)
from pg_index i join pg_class c on c.oid = i.indrelid where c.relnamespace = 'sightline'::regnamespace
union all select 'function', oid::regprocedure::text, coalesce(proacl::text, ''), pg_get_functiondef(oid)
from pg_proc where pronamespace = 'sightline'::regnamespace
union all select 'trigger', tgrelid::regclass::text, tgname, pg_get_triggerdef(oid) from pg_trigger where not tgisinternal
order by 1, 2, 3, 4
"""


def catalog(url: str) -> list[tuple[str, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(CATALOG).fetchall()


def test_an_upgraded_database_equals_an_installed_one_and_keeps_its_rows(stack, template) -> None:
    """A database of the first revision that was in use: its spaces, items, vectors, aliases and open jobs live on."""
    used, installed = make_database(stack, "template0"), make_database(stack, "template0")
    migrate(used, "0001")
    with psycopg.connect(used, autocommit=True) as connection:
        connection.execute("select sightline.create_space('toy', 'm', 2)")
        connection.execute("select sightline.alias_space('current', 'toy')")
        job = connection.execute(
            'select sightline.submit(\'encode\', \'{}\', \'c\', \'[{"text": "red", "external_id": "r"}, {"text": "blue"}]\')'
        ).fetchone()
        connection.execute(
            "insert into sightline.embedding (space_id, item_id, generation, norm, modality, vec) "
            "select 1, item_id, 1, 1, 'text', '[1,2]' from sightline.item where external_id = 'r'"
        )
        counts = "select (select count(*) from sightline.item), (select count(*) from sightline.chunk where state = 'queued')"
        before = connection.execute(counts).fetchone()
    migrate(used)
    with psycopg.connect(used, autocommit=True) as connection:
        assert connection.execute(counts).fetchone() == before
        found = connection.execute(
            "select external_id, score from sightline.nearest('current', '[1,2]', modality => 'text')"
        )
        assert found.fetchall() == [("r", 1.0)]
        state = connection.execute(
            "select state, submitted, pending from sightline.job_progress where job_id = %s", job
        )
        assert state.fetchone() == ("queued", 2, 2)
        assert (
            connection.execute("select external_id, reason from sightline.missing('toy')").fetchall()[0][1] == "queued"
        )
    migrate(installed)
    with psycopg.connect(installed, autocommit=True) as connection:
        connection.execute("select sightline.create_space('toy', 'm', 2)")
        connection.execute("select sightline.alias_space('current', 'toy')")
    assert catalog(used) == catalog(installed)


def test_two_migrations_at_once_queue_up(stack, template) -> None:
    url = make_database(stack, "template0")
    revisions: list[str] = []
    threads = [threading.Thread(target=lambda: revisions.append(migrate(url))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert revisions == ["0005"] * 3 == [newest_revision()] * 3


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
    assert migrate(keywords) == "0005"


@pytest.mark.parametrize("url", ["mysql://host/db", "postgresql://nobody@127.0.0.1:1/none"])
def test_a_database_that_is_none_is_named_in_one_line(url: str) -> None:
    with pytest.raises(ServiceMissing) as caught:
        migrate(url)
    assert "\n" not in str(caught.value)
