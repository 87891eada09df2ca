"""A worker that logs in with nothing but the role `sightline_worker`."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from models.encoder import Encoder
from sightline.client import Sightline
from tests.workers.conftest import make_space, png
from tests.workers.processes import Workers


@pytest.fixture(scope="module")
def worker_url(database_url: str) -> Iterator[str]:
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("create role plain_worker login in role sightline_worker")
    yield psycopg.conninfo.make_conninfo(database_url, user="plain_worker")
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("drop role plain_worker")


def test_it_does_all_its_work_in_old_and_new_spaces(
    client: Sightline, space: str, encoder: Encoder, database_url: str, worker_url: str, start_worker: Workers
) -> None:
    worker = start_worker(database_url=worker_url)
    job = client.ingest([png(1), b"no image", {"text": "a red circle"}], collection="c")
    progress = job.wait(timeout=60)
    assert (progress.done, progress.failed) == (2, 1)
    make_space(database_url, "later", encoder)  # a partition that was not there when the rights were given
    progress = client.submit("encode", {"space": "later"}, collection="c").wait(timeout=60)
    assert progress.done == 2
    again = client.ingest([png(2)], collection="c")
    again.wait(timeout=60)
    assert client.search(text="a red circle", k=2).status == "complete"
    assert worker.terminate() == 0
    assert not worker.events("loop_failed")
    with client.database.transaction() as connection:
        assert connection.execute("select count(*) from sightline.worker where stopped_at is null").fetchone() == (0,)


def test_it_may_not_change_what_the_owner_decides(worker_url: str) -> None:
    with psycopg.connect(worker_url, autocommit=True) as worker:
        for statement in (
            "delete from sightline.space", "update sightline.job_contract set served = false", "delete from sightline.item",
            "insert into sightline.collection (name) values ('x')", "select * from sightline.embedding_s1",
            "select sightline.alias_space('current', 'tiny')", "create table sightline.mine ()",
        ):  # fmt: skip
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                worker.execute(statement)
