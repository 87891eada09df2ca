"""The doctor's findings on Postgres, each with the thing broken for real."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psycopg
import pytest
from pydantic import SecretStr

from sightline.database import Database
from sightline.doctor import Check, examine
from sightline.doctor.indexes import check_indexes
from sightline.doctor.postgres import check_memory, check_schema, check_server, check_shared_memory
from sightline.embedded.stack import EmbeddedStack
from sightline.settings import Settings
from sightline.space import index_space
from tests.conftest import make_database
from tests.sightline.doctor.conftest import alter, by_name
from tests.sightline.points import around, store


def test_a_healthy_server_has_nothing_to_mend(own_database: str) -> None:
    with psycopg.connect(own_database, autocommit=True) as connection:
        found = [*check_server(connection), *check_schema(connection), *check_memory(connection)]
        found += check_indexes(connection)
    assert [check for check in found if check.state != "ok"] == []
    assert len(found) == 10
    assert by_name(found)["pgvector"].found.startswith("version 0.8.")


def test_a_setting_that_hurts_is_named_with_its_remedy(own_database: str) -> None:
    alter(own_database, "work_mem = '1MB'")
    alter(own_database, "max_parallel_maintenance_workers = 0")
    with psycopg.connect(own_database, autocommit=True) as connection:
        connection.execute("select sightline.create_space('huge', 'm', 512)")
        # What autovacuum writes after a bulk load.
        connection.execute("update pg_class set reltuples = 1e7 where oid = 'sightline.embedding_s1'::regclass")
        found = by_name(check_memory(connection))
    assert found["work_mem"].state == "warn"
    assert "1.0 MiB" in found["work_mem"].found
    assert found["max_parallel_maintenance_workers"].state == "warn"
    assert "10,000,000 vectors" in found["max_parallel_maintenance_workers"].found
    assert found["maintenance_work_mem"].state == "warn"
    assert "huge, needs 15.6 GiB" in found["maintenance_work_mem"].found
    assert "maintenance_work_mem = '15" in found["maintenance_work_mem"].advice
    alter(own_database, "maintenance_work_mem = '20GB'")
    with psycopg.connect(own_database, autocommit=True) as connection:
        assert by_name(check_memory(connection))["maintenance_work_mem"].state == "ok"


def test_autovacuum_that_is_off_is_found(stack: EmbeddedStack, own_database: str) -> None:
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        connection.execute("alter system set autovacuum = off")
        connection.execute("select pg_reload_conf()")
        try:
            connection.execute("select pg_sleep(0.3)")
            with psycopg.connect(own_database, autocommit=True) as other:
                assert by_name(check_server(other))["autovacuum"].state == "warn"
        finally:
            connection.execute("alter system reset autovacuum")
            connection.execute("select pg_reload_conf()")


def test_too_little_shared_memory_for_a_parallel_build_is_found(tmp_path: Path) -> None:
    short = check_shared_memory(True, "posix", need=2**60, parallel=True, path=str(tmp_path))
    assert short.state == "warn"
    assert "--shm-size" in short.advice
    assert check_shared_memory(True, "posix", need=1, parallel=True, path=str(tmp_path)).state == "ok"
    assert "cannot be seen" in check_shared_memory(False, "posix", need=2**60, parallel=True).found
    assert check_shared_memory(True, "mmap", need=2**60, parallel=True).state == "ok"
    assert check_shared_memory(True, "posix", need=1, parallel=True, path=str(tmp_path / "none")).state == "warn"


def test_a_database_of_another_revision_is_found(own_database: str) -> None:
    with psycopg.connect(own_database, autocommit=True) as connection:
        for revision, advice in (("0001", "run `sightline migrate`"), ("9999", "upgrade sightline")):
            connection.execute("update sightline.migration set version_num = %s", (revision,))
            (check,) = check_schema(connection)
            assert (check.state, check.advice) == ("fail", advice)
            assert revision in check.found


def test_a_database_without_schema_or_pgvector_is_found(stack: EmbeddedStack, template: str) -> None:
    url = make_database(stack, "template0")
    with psycopg.connect(url, autocommit=True) as connection:
        assert by_name(check_server(connection))["pgvector"].advice == "run `sightline migrate`"
        assert check_schema(connection)[0].state == "fail"
    alter(url, "extension_control_path = '/nowhere'")
    with psycopg.connect(url, autocommit=True) as connection:
        found = by_name(check_server(connection))["pgvector"]
    assert (found.state, found.found) == ("fail", "not installed on the server")


def test_a_server_that_does_not_answer_leaves_the_other_checks_to_run(redis_url: str, tmp_path: Path) -> None:
    settings = Settings(
        database_url=SecretStr("postgresql://nobody@127.0.0.1:1/none"),
        redis_url=SecretStr(redis_url),
        media_roots=[tmp_path / "gone"],
    )
    found: dict[str, Check] = {}
    for check in examine(settings):
        found[check.name] = check
        if check.name.startswith("media root"):
            break  # what comes after loads torch
    assert found["Postgres"].state == "fail"
    assert "SIGHTLINE_DATABASE_URL" in found["Postgres"].advice
    assert found["Redis"].state == "ok"
    assert found[f"media root {tmp_path / 'gone'}"].state == "fail"


def test_indexes_that_are_missing_or_broken_are_found(own_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    large = 1000
    monkeypatch.setattr("sightline.doctor.indexes.LARGE", large)
    points = around(np.eye(32)[0], large, 0.5, 1)
    database = Database(own_database)
    with psycopg.connect(own_database, autocommit=True) as connection:
        connection.execute("select sightline.create_space('toy', 'm', 32)")
        store(connection, "toy", "c", "image", points[: large - 1], ["{}"] * (large - 1))
        assert [check.state for check in check_indexes(connection)] == ["ok"]
        connection.execute(
            "insert into sightline.item (collection_id, external_id, modality, uri) select 1, 'last', 'image', 'file:///x'"
        )
        connection.execute(
            "insert into sightline.embedding (space_id, item_id, generation, norm, modality, vec) "
            "select 1, max(item_id), 1, 1, 'image', (select vec from sightline.embedding limit 1) from sightline.item"
        )
        (missing,) = check_indexes(connection)
        assert (missing.name, missing.state) == ("index of toy (image)", "warn")
        assert missing.advice == "sightline space index toy"
        connection.execute("set statement_timeout = '300ms'")
        build = (
            "create index concurrently toy_image_hnsw on sightline.embedding_s1 using hnsw "
            "((vec::halfvec(32)) halfvec_cosine_ops) where slot = 0 and modality = 'image'"
        )
        with psycopg.connect(own_database) as writing:  # a build waits for whoever writes, and is given up
            writing.execute("lock table sightline.embedding_s1 in row exclusive mode")
            with pytest.raises(psycopg.errors.QueryCanceled):
                connection.execute(build)
        connection.execute("reset statement_timeout")
        (broken,) = check_indexes(connection)
        assert broken.state == "fail"
        assert "invalid" in broken.found
        index_space(database, "toy")  # the advice
        (mended,) = check_indexes(connection)
        assert (mended.state, mended.found) == ("ok", "2 ready, none is missing on a large space")
    database.close()


def test_a_table_full_of_dead_rows_is_found(own_database: str) -> None:
    with psycopg.connect(own_database, autocommit=True) as connection:
        connection.execute("alter table sightline.collection set (autovacuum_enabled = off)")
        connection.execute("insert into sightline.collection (name) select 'c' || n from generate_series(1, 12000) n")
        connection.execute("delete from sightline.collection")
        connection.execute("select pg_stat_force_next_flush()")
        connection.execute("select")
        found = by_name(check_indexes(connection))
    assert found["table collection"].state == "warn"
    assert "12,000 dead rows" in found["table collection"].found
