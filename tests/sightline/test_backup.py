"""What docs/operate.md says of backups: dump, lose everything, restore, and search as before."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import psycopg

from sightline.client import Sightline
from sightline.embedded.stack import EmbeddedStack
from sightline.migrate import migrate
from sightline.settings import Settings
from sightline.space import index_space
from tests.conftest import make_database
from tests.sightline.points import DIM, around, literal, store, unit


def program(stack: EmbeddedStack, name: str, *arguments: str | Path) -> None:
    ended = subprocess.run([stack.psql.with_name(name), *arguments], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, ""), name


def test_a_restored_database_is_searched_as_before_and_works_on(
    stack: EmbeddedStack, template: str, redis_url: str, settings: Settings, tmp_path: Path
) -> None:
    url = make_database(stack, template)
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    center = unit(np.ones(DIM))
    search = f"select external_id, score from sightline.nearest('current', '{literal(center)}', 10)"
    with Sightline(url, redis_url, settings=settings) as sl:
        with sl.database.transaction() as owner:
            owner.execute(
                "select sightline.create_space('points', 'm', %s), sightline.alias_space('current', 'points')", (DIM,)
            )
            store(owner, "points", "kept", "image", around(center, 300, 0.2, 1))
        index_space(sl.database, "points")
        open_job = sl.ingest([{"data": b"uploaded"}], collection="uploads")
        with sl.database.transaction() as owner:
            before = owner.execute(search).fetchall()
            owner.execute(
                "update sightline.chunk set state = 'running', worker_id = gen_random_uuid(), fence = 1, claimed_at = now()"
            )
    assert len(before) == 10

    dump = tmp_path / "sightline.dump"
    program(stack, "pg_dump", "--format=custom", "--file", dump, url)
    with psycopg.connect(stack.database_url, autocommit=True) as admin:
        admin.execute(f"drop database {name} with (force)")
        admin.execute(f"create database {name}")
    program(stack, "pg_restore", "--exit-on-error", "--no-owner", "--no-privileges", "--dbname", url, dump)
    migrate(url)

    with Sightline(url, redis_url, settings=settings) as sl, sl.database.transaction() as owner:
        assert owner.execute(search).fetchall() == before
        assert owner.execute("select bytes from sightline.blob").fetchall() == [(b"uploaded",)]
        valid = "select indisvalid from pg_index where indexrelid = 'sightline.points_image_hnsw'::regclass"
        assert owner.execute(valid).fetchone() == (True,)
        # What a worker held when the dump was made is given to another one.
        assert owner.execute("select sightline.sweep(interval '15 s', 3)").fetchone() == (1,)
        assert sl.job(open_job.job_id).progress().pending == 1
        assert owner.execute(
            "select has_table_privilege('sightline_reader', 'sightline.item', 'select')"
        ).fetchone() == (True,)
        assert sl.submit("encode", {}, collection="uploads", items=[{"text": "new"}]).job_id > open_job.job_id
