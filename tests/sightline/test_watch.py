"""Watched tables: what their triggers mark, what becomes of it, and what is refused. No worker: `drain_watch` is called by hand."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

Rows = list[tuple[object, ...]]
PUBLIC = "-c search_path=public"


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    """As users have it: their tables lie in a schema of theirs."""
    with psycopg.connect(database_url, autocommit=True, options=PUBLIC) as opened:
        yield opened


@pytest.fixture(scope="module", autouse=True)
def space(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("select sightline.create_space('toy', 'm', 2), sightline.alias_space('current', 'toy')")
        owner.execute("select sightline.create_space('seen', 'm', 2, modalities => '{image}')")


@pytest.fixture
def product(connection: psycopg.Connection) -> Iterator[psycopg.Connection]:
    """A table of three rows that collection `shop` follows."""
    connection.execute("create table product (id bigint primary key, name text, price numeric)")
    connection.execute("insert into product values (1, 'ring', 5), (2, 'heart', 7), (3, null, 1)")
    connection.execute("select sightline.watch('product', 'id', 'name', 'shop')")
    yield connection
    connection.execute("drop table if exists product cascade")
    for (collection,) in connection.execute("select collection from sightline.watched_tables").fetchall():
        connection.execute("select sightline.unwatch(%s, prune => true)", (collection,))
    connection.execute("delete from sightline.item")


def drain(connection: psycopg.Connection, step: int = 1000) -> int:
    """As the leader does; returns how many jobs it made."""
    count = "select count(*) from sightline.job"
    (before,) = connection.execute(count).fetchone()
    while connection.execute("select sightline.drain_watch(%s)", (step,)).fetchone() != (0,):
        pass
    (after,) = connection.execute(count).fetchone()
    return after - before


def items(connection: psycopg.Connection, collection: str = "shop") -> Rows:
    return connection.execute(
        "select external_id, coalesce(text, uri), generation from sightline.item join sightline.collection using (collection_id) "
        "where name = %s order by 1",
        (collection,),
    ).fetchall()


def marks(connection: psycopg.Connection) -> Rows:
    return connection.execute("select row_id from sightline.watch_mark order by mark_id").fetchall()


def watched(connection: psycopg.Connection, columns: str) -> Rows:
    return connection.execute(f"select {columns} from sightline.watched_tables order by watch_id").fetchall()


def encode_all(connection: psycopg.Connection) -> None:
    """The vectors that a worker would have stored."""
    connection.execute(
        "insert into sightline.embedding (space_id, item_id, generation, norm, modality, vec) "
        "select 1, item_id, generation, 1, modality, '[1,2]' from sightline.item where modality = 'text' "
        "on conflict (space_id, item_id, slot) do update set generation = excluded.generation"
    )


def test_rows_that_are_there_are_submitted_in_one_job(product: psycopg.Connection) -> None:
    assert watched(product, "source, collection, state, waiting") == [("product", "shop", "reading the table", 1)]
    assert drain(product) == 1
    assert items(product) == [("1", "ring", 1), ("2", "heart", 1)]
    assert product.execute("select count(*) from sightline.missing('toy') where reason = 'queued'").fetchone() == (2,)
    assert watched(product, "state, waiting, lag, scanned, last_error") == [("in step", 0, None, 3, None)]


@pytest.mark.parametrize("step", [2, 3, 1000])
def test_a_table_is_read_in_steps_of_any_size(product: psycopg.Connection, step: int) -> None:
    product.execute("insert into product select n, 'thing ' || n, 1 from generate_series(10, 18) n")
    drain(product, step)
    assert len(items(product)) == 11
    product.execute("truncate product")
    drain(product, step)
    assert items(product) == []


def test_every_change_is_followed(product: psycopg.Connection) -> None:
    drain(product)
    encode_all(product)
    product.execute("insert into product values (4, 'star', 1), (5, '', 2)")
    product.execute("update product set name = 'big ring' where id = 1")
    product.execute("update product set name = 'key' where id = 3")
    product.execute("delete from product where id = 2")
    assert marks(product) == [("4",), ("5",), ("1",), ("3",), ("2",)]
    assert drain(product) == 1
    assert items(product) == [("1", "big ring", 2), ("3", "key", 1), ("4", "star", 1)]
    with product.cursor() as cursor, cursor.copy("copy product from stdin") as copy:
        copy.write("6\tmoon\t1\n")
    product.execute("insert into product values (4, 'sun', 1) on conflict (id) do update set name = excluded.name")
    product.execute("update product set id = 7 where id = 1")
    drain(product)
    assert items(product) == [("3", "key", 1), ("4", "sun", 2), ("6", "moon", 1), ("7", "big ring", 1)]
    product.execute("update product set name = null where id = 4")
    product.execute("truncate product; insert into product values (9, 'after', 1)")
    drain(product)
    assert items(product) == [("9", "after", 1)]


def test_no_work_where_the_content_is_as_before(product: psycopg.Connection) -> None:
    drain(product)
    encode_all(product)
    product.execute("update product set price = price + 1")
    product.execute("update product set name = name")
    product.execute("update product set name = 'x' where id = 77")
    assert marks(product) == []
    product.execute("update product set name = 'other' where id = 1; update product set name = 'ring' where id = 1")
    assert marks(product) == [("1",), ("1",)]
    assert drain(product) == 0
    assert items(product) == [("1", "ring", 1), ("2", "heart", 1)]
    product.execute("select sightline.watch('product', 'id', 'name', 'shop')")  # looks at every row again
    assert drain(product) == 0


def test_what_is_rolled_back_is_not_seen(product: psycopg.Connection) -> None:
    drain(product)
    with product.transaction(force_rollback=True):
        product.execute("insert into product values (4, 'star', 1)")
    assert drain(product) == 0
    assert len(items(product)) == 2


def test_only_items_of_the_watch_are_deleted(product: psycopg.Connection) -> None:
    drain(product)
    product.execute(
        "select sightline.submit('encode', '{}', 'shop', '[{\"text\": \"by hand\", \"external_id\": \"mine\"}]')"
    )
    product.execute("truncate product")
    drain(product)
    assert items(product) == [("mine", "by hand", 1)]


def test_a_bad_row_fails_alone_and_by_name(connection: psycopg.Connection, tmp_path: Path) -> None:
    connection.execute("create table photo (code text primary key, file text)")
    connection.execute(
        "insert into photo values ('a', %s), ('b', 'ftp://x/y.png'), ('', 'file:///z.png'), (%s, 'file:///z.png')",
        (f"file://{tmp_path}/a.png", "n" * 3000),
    )
    connection.execute("select sightline.watch('photo', 'code', 'file', 'photos', modality => 'image')")
    assert drain(connection) == 1
    assert items(connection, "photos") == [("a", f"file://{tmp_path}/a.png", 1)]
    failed = connection.execute(
        "select external_id, error_class, message from sightline.failed_items where collection = 'photos' order by 1"
    ).fetchall()
    assert [(name[:7], kind) for name, kind, _ in failed] == [
        ("(empty)", "InvalidInput"),
        ("b", "InvalidInput"),
        ("n" * 7, "InvalidInput"),
    ]
    assert failed[1][2].startswith("a uri must begin with")
    connection.execute("update photo set file = 'ftp://elsewhere/a.png' where code = 'a'")
    drain(connection)
    assert items(connection, "photos") == []  # what the row no longer says is not found
    assert connection.execute("select sightline.unwatch('photos')").fetchone() == (0,)
    connection.execute("drop table photo")


def test_ids_may_be_uuids_and_generated_from_a_composite_key(connection: psycopg.Connection) -> None:
    connection.execute("create table by_uuid (id uuid primary key, name text)")
    connection.execute(
        "create table by_two (shop int, nr int, name text, primary key (shop, nr), "
        "code text generated always as (shop::text || '/' || nr::text) stored unique not null)"
    )
    one = uuid.uuid4()
    connection.execute(
        "insert into by_uuid values (%s, 'a'), (gen_random_uuid(), 'b'), (gen_random_uuid(), 'c')", (one,)
    )
    connection.execute("insert into by_two values (1, 2, 'a'), (10, 2, 'b')")
    connection.execute(
        "select sightline.watch('by_uuid', 'id', 'name', 'uuids'), sightline.watch('by_two', 'code', 'name', 'twos')"
    )
    drain(connection, 2)
    assert len(items(connection, "uuids")) == 3
    assert [name for name, _, _ in items(connection, "twos")] == ["1/2", "10/2"]
    connection.execute(f"delete from by_uuid where id = '{one}'; update by_two set nr = 3 where shop = 1")
    drain(connection)
    assert len(items(connection, "uuids")) == 2
    assert [name for name, _, _ in items(connection, "twos")] == ["1/3", "10/2"]
    connection.execute("select sightline.unwatch('uuids', prune => true), sightline.unwatch('twos', prune => true)")
    connection.execute("drop table by_uuid, by_two")


REFUSED = [
    ("create table t (a int, b int, name text, primary key (a, b))", "a", "name", "may be null or there twice.*generated always"),
    ("create table t (id int unique, name text)", "id", "name", "may be null or there twice"),
    ("create table t (id timestamptz primary key, name text)", "id", "name", "ids of type timestamp with time zone"),
    ("create table t (id int primary key, name jsonb)", "id", "name", "content of type jsonb"),
    ("create table t (id int primary key, name text)", "id", "nme", 'has no column "nme"'),
    ("create table t (id int primary key, name text) partition by range (id)", "id", "name", "is partitioned"),
    ("create unlogged table t (id int primary key, name text)", "id", "name", "temporary or unlogged"),
    ("create view t as select 1 as id, 'x' as name", "id", "name", "is no table"),
    ("create table p (id int, name text); create table t (primary key (id)) inherits (p)", "id", "name", "inherits"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "id_column", "content", "message"), REFUSED, ids=[message[:24] for _, _, _, message in REFUSED]
)
def test_what_cannot_be_followed_is_refused_in_words(
    connection: psycopg.Connection, make: str, id_column: str, content: str, message: str
) -> None:
    with connection.transaction(force_rollback=True):
        connection.execute(make)
        with pytest.raises(psycopg.Error, match=f"^table t .*{message}"):
            connection.execute("select sightline.watch('t', %s, %s, 'none')", (id_column, content))


def test_a_wrong_space_collection_or_modality_is_refused(product: psycopg.Connection) -> None:
    for arguments, message in (
        ("'id', 'name', 'c', space => 'none'", "no space named"),
        ("'id', 'name', 'c', space => 'seen'", 'has no modality "text"'),
        ("'id', 'price', 'shop'", "content of type numeric"),
        ("'id', 'name', 'shop', space => 'toy'", 'collection "shop" follows product'),
    ):
        with pytest.raises(psycopg.Error, match=message):
            product.execute(f"select sightline.watch('product', {arguments})")
    with pytest.raises(psycopg.errors.UndefinedObject, match="follows no table"):
        product.execute("select sightline.unwatch('other')")


def test_a_renamed_table_and_renamed_columns_are_followed(product: psycopg.Connection) -> None:
    drain(product)
    product.execute("alter table product rename to goods")
    product.execute("alter table goods rename id to nr; alter table goods rename name to title")
    product.execute("update goods set title = 'big ring' where nr = 1")
    assert marks(product) == [("1",)]
    drain(product)
    assert items(product)[0] == ("1", "big ring", 2)
    assert watched(product, "source, id_column, content_column, state") == [("goods", "nr", "title", "in step")]
    product.execute("drop table goods")


def test_what_is_no_longer_there_is_said_and_loses_nothing(product: psycopg.Connection) -> None:
    drain(product)
    product.execute("alter table product drop column name")
    product.execute("insert into product values (8, 1)")  # never fails, and is marked
    drain(product)
    ((state, waiting, error),) = watched(product, "state, waiting, last_error")
    assert (state, waiting) == ("failing", 1)
    assert 'no longer the column that was watched; it was "name"' in error
    assert len(items(product)) == 2
    product.execute("alter table product add column name text; update product set name = 'ring' where id = 1")
    product.execute("update sightline.watch set try_at = now()")
    drain(product)
    assert watched(product, "state, last_error") == [("in step", None)]
    product.execute("drop table product")
    assert watched(product, "source, state") == [("product", "table is gone")]
    assert product.execute("select sightline.unwatch('shop', prune => true)").fetchone() == (1,)


def test_disabled_triggers_are_noticed(product: psycopg.Connection) -> None:
    drain(product)
    product.execute("alter table product disable trigger user")
    assert watched(product, "state") == [("triggers are missing or disabled: watch it again",)]
    product.execute("insert into product values (4, 'unseen', 1)")
    product.execute("select sightline.watch('product', 'id', 'name', 'shop')")
    assert watched(product, "state") == [("reading the table",)]
    drain(product)
    assert ("4", "unseen", 1) in items(product)


@pytest.mark.parametrize("in_one_transaction", [True, False])
def test_what_is_written_while_triggers_are_disabled_is_found_afterwards(
    product: psycopg.Connection, in_one_transaction: bool
) -> None:
    """As `pg_restore --data-only --disable-triggers` does, and many a bulk load."""
    drain(product)
    encode_all(product)
    statements = [
        "alter table product disable trigger all",
        "insert into product values (4, 'star', 1)",
        "delete from product where id = 2",
    ]
    with product.transaction() if in_one_transaction else contextlib.nullcontext():
        for statement in statements:
            product.execute(statement)
        if not in_one_transaction:
            assert drain(product) == 0  # nothing can be known yet, and it is said
            assert watched(product, "state") == [("triggers are missing or disabled: watch it again",)]
        product.execute("alter table product enable trigger all")
    assert drain(product) == 1
    assert items(product) == [("1", "ring", 1), ("4", "star", 1)]
    assert watched(product, "state") == [("in step",)]
    assert drain(product) == 0
    (name,) = product.execute(
        "select tgname from pg_trigger where tgrelid = 'product'::regclass and tgname like '%insert'"
    ).fetchone()
    product.execute(f"alter table product enable replica trigger {name}")  # it does not fire for the app's statements
    assert watched(product, "state") == [("triggers are missing or disabled: watch it again",)]
    product.execute("insert into product values (5, 'moon', 1)")
    product.execute("alter table product enable trigger all")
    drain(product)
    assert ("5", "moon", 1) in items(product)


def test_the_apps_role_needs_no_right_and_its_statement_never_fails(
    product: psycopg.Connection, database_url: str
) -> None:
    drain(product)
    product.execute("create role app_writer login; grant insert, update, delete on product to app_writer")
    try:
        with psycopg.connect(psycopg.conninfo.make_conninfo(database_url, user="app_writer"), autocommit=True) as app:
            # A search path of its own does not lead the trigger astray.
            app.execute("create temp table watch (watch_id int); set search_path = pg_temp, public")
            app.execute("insert into product values (4, 'star', 1)")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute("select * from sightline.watch_mark")
            assert marks(product) == [("4",)]
            product.execute("alter table sightline.watch_mark add constraint broken check (row_id <> '5')")
            app.execute("insert into product values (5, 'moon', 1)")  # is marked as a whole instead
            assert marks(product) == [("4",), (None,)]
            product.execute("alter table sightline.watch_mark drop constraint broken")
        drain(product)
        assert [name for name, _, _ in items(product)] == ["1", "2", "4", "5"]
    finally:
        product.execute("alter table sightline.watch_mark drop constraint if exists broken")
        product.execute("drop owned by app_writer; drop role app_writer")


def test_writers_do_not_wait_for_each_other_or_for_the_drain(product: psycopg.Connection, database_url: str) -> None:
    drain(product)
    with psycopg.connect(database_url, options=PUBLIC) as one, psycopg.connect(database_url, options=PUBLIC) as two:
        for other in (one, two):
            other.execute("set lock_timeout = '2s'")
        one.execute("insert into product values (4, 'star', 1)")
        two.execute("insert into product values (5, 'moon', 1)")
        two.commit()
        assert drain(product) == 1
        one.commit()
    assert drain(product) == 1
    assert [name for name, _, _ in items(product)] == ["1", "2", "4", "5"]


def write_some(database_url: str, first: int) -> None:
    with psycopg.connect(database_url, autocommit=True, options=PUBLIC) as own:
        for number in range(first, first + 40):
            own.execute("insert into product values (%s, %s, 1)", (number, f"thing {number}"))
            if number % 3 == 0:
                own.execute("update product set name = name || '!' where id = %s", (number,))
            if number % 5 == 0:
                own.execute("delete from product where id = %s", (number,))


def test_drains_at_once_and_writers_between_them_end_in_step(product: psycopg.Connection, database_url: str) -> None:
    stop = threading.Event()

    def drain_on() -> None:
        with psycopg.connect(database_url, autocommit=True) as own:
            while not stop.is_set():
                own.execute("select sightline.drain_watch(7)")

    drains = [threading.Thread(target=drain_on) for _ in range(2)]
    writers = [threading.Thread(target=write_some, args=(database_url, first)) for first in (100, 200)]
    for thread in (*drains, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in drains:
        thread.join()
    product.execute("update sightline.watch set try_at = now()")
    drain(product)
    rows = product.execute("select id::text, name from product where name is not null order by 1").fetchall()
    assert [(name, text) for name, text, _ in items(product)] == rows
    assert watched(product, "state, last_error") == [("in step", None)]


def test_a_table_that_its_owner_does_not_share_is_refused(connection: psycopg.Connection, stack: object) -> None:
    with connection.transaction(force_rollback=True):
        connection.execute("create role plain_sightline; create role plain_app")
        connection.execute("create table t (id int primary key, name text); alter table t owner to plain_app")
        connection.execute(
            "grant usage on schema sightline to plain_sightline; grant all on all tables in schema sightline to plain_sightline"
        )
        connection.execute("alter function sightline.drain_watch owner to plain_sightline")
        with pytest.raises(psycopg.Error, match="grant select, trigger on t to plain_sightline"):
            connection.execute("select sightline.watch('t', 'id', 'name', 'c')")


def test_rows_that_a_policy_hides_are_no_deleted_ones(connection: psycopg.Connection) -> None:
    with connection.transaction(force_rollback=True):
        connection.execute("create role plain_sightline; create table t (id int primary key, name text)")
        connection.execute("alter table t enable row level security; grant all on t to plain_sightline")
        connection.execute(
            "grant all on schema sightline to plain_sightline; alter function sightline.drain_watch owner to plain_sightline"
        )
        with pytest.raises(psycopg.Error, match="has row level security, which hides rows from plain_sightline"):
            connection.execute("select sightline.watch('t', 'id', 'name', 'c')")
