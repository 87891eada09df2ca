"""What each role can do, and what it cannot: asked by sessions of logins that hold it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import structlog
from PIL import Image
from psycopg import sql
from pydantic import SecretStr

from sightline.client import Sightline
from sightline.doctor import examine
from sightline.errors import RequestRefused, ServiceMissing
from sightline.migrate import migrate
from tests.conftest import make_database

Login = Callable[[str], psycopg.Connection]
ROLES = ("sightline_reader", "sightline_producer", "sightline_worker")
REFUSED = psycopg.errors.InsufficientPrivilege


def as_login(url: str, login: str) -> str:
    """The same database, as another user; the embedded server asks nobody for a password."""
    return psycopg.conninfo.make_conninfo(url, user=login)


@pytest.fixture(scope="module")
def logins(stack, database_url: str) -> Iterator[dict[str, str]]:
    """A login of each role, and one of none."""
    made = {role: f"app_{role.removeprefix('sightline_')}" for role in ROLES} | {"": "app_nobody"}
    with psycopg.connect(database_url, autocommit=True) as owner:
        for role, login in made.items():
            owner.execute(f"create role {login} login {'in role ' + role if role else ''}")
        owner.execute("select sightline.create_space('toy', 'm', 2), sightline.alias_space('current', 'toy')")
        owner.execute(
            "select sightline.submit('encode', '{}', 'shop', '[{\"text\": \"red\", \"external_id\": \"r\"}]')"
        )
        owner.execute(
            "insert into sightline.embedding (space_id, item_id, generation, norm, modality, vec) "
            "select 1, item_id, 1, 1, 'text', '[1,2]' from sightline.item"
        )
    yield made
    with psycopg.connect(database_url, autocommit=True) as owner:
        for login in made.values():
            owner.execute(f"drop role {login}")


@pytest.fixture
def login(database_url: str, logins: dict[str, str]) -> Iterator[Login]:
    opened: list[psycopg.Connection] = []

    def connect(role: str) -> psycopg.Connection:
        opened.append(psycopg.connect(as_login(database_url, logins[role]), autocommit=True))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


def tables(connection: psycopg.Connection, kinds: str) -> list[str]:
    return [
        name
        for (name,) in connection.execute(
            "select relname from pg_class where relnamespace = 'sightline'::regnamespace and relkind = any (%s) order by 1",
            (list(kinds),),
        )
    ]


def test_a_reader_reads_and_searches_and_writes_nothing(login: Login) -> None:
    reader = login("sightline_reader")
    assert reader.execute("select external_id from sightline.current_text").fetchall() == [("r",)]
    found = reader.execute("select external_id from sightline.nearest('current', '[1,2]', modality => 'text')")
    assert found.fetchall() == [("r",)]
    for view in ("job_progress", "queue_status", "failed_items", "missing_items", "near_duplicates", "noted_items"):
        reader.execute(sql.SQL("select * from sightline.{}").format(sql.Identifier(view)))
    for table in tables(reader, "rp"):
        with pytest.raises(REFUSED):
            reader.execute(sql.SQL("delete from sightline.{}").format(sql.Identifier(table)))
        with pytest.raises(REFUSED):
            reader.execute(sql.SQL("insert into sightline.{} default values").format(sql.Identifier(table)))
    for statement in (
        "submit('encode', '{}', 'shop')",
        "cancel(1)",
        "pause(queue => 'encode')",
        "create_space('b', 'm', 2)",
    ):
        with pytest.raises(REFUSED):
            reader.execute(f"select sightline.{statement}")


def test_views_of_a_later_space_are_readable_and_no_partition_is(login: Login, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("select sightline.create_space('later', 'm', 3), sightline.alias_space('other', 'later')")
    for role in ("sightline_reader", "sightline_worker"):
        connection = login(role)
        connection.execute("select * from sightline.later_image, sightline.other_text")
        with pytest.raises(REFUSED):
            connection.execute("select * from sightline.embedding_s1")


def test_a_producer_submits_sees_its_own_jobs_and_does_nothing_else(login: Login, client: Sightline) -> None:
    producer = login("sightline_producer")
    items = json.dumps([{"text": "blue", "external_id": "b"}])
    (job,) = producer.execute("select sightline.submit('encode', '{}', 'shop', %s)", (items,)).fetchone()
    own = "select job_id, state, submitted, pending from sightline.my_jobs()"
    assert producer.execute(own).fetchall() == [(job, "queued", 1, 1)]
    assert producer.execute("select * from sightline.my_failures()").fetchall() == []
    assert client.job(job).progress().submitted == 1
    for relation in tables(producer, "rpv"):
        for verb in ("select from", "delete from"):
            with pytest.raises(psycopg.Error) as refused:
                producer.execute(sql.SQL(verb + " sightline.{}").format(sql.Identifier(relation)))
            assert isinstance(refused.value, REFUSED | psycopg.errors.ObjectNotInPrerequisiteState), relation
    executable = producer.execute(
        "select p.proname from pg_proc p where pronamespace = 'sightline'::regnamespace and has_function_privilege(p.oid, 'execute')"
    ).fetchall()
    assert {name for (name,) in executable} == {
        "submit", "my_jobs", "my_failures", "progress_of", "failures_of", "notes_of", "unserved_queues_of", "own_job",
        "resolve_space", "open_job", "feed", "end_feed", "keep_open", "stored_sources", "missing_blobs", "add_blobs",
        "register_blobs", "select_best", "store_calibration", "bulk_advice", "followers_of",
    }  # fmt: skip


def test_a_producer_of_python_ingests_files_and_reads_its_failures(
    login: Login, logins: dict[str, str], database_url: str, client: Sightline, tmp_path: Path
) -> None:
    image = tmp_path / "dot.png"
    Image.new("RGB", (8, 8), "red").save(image)
    settings = client.settings.model_copy(update={"database_url": None, "redis_url": None})
    with Sightline(as_login(database_url, logins["sightline_producer"]), settings=settings) as sl:
        given = [image, tmp_path / "none.png", {"text": "a dot", "external_id": "t"}]
        job = sl.ingest(given, collection="produced", root=tmp_path)
        now = job.progress()
        assert (now.submitted, now.failed, now.pending, now.sealed_at is not None) == (3, 1, 2, True)
        assert [(f.external_id, f.error_class) for f in job.failures()] == [("none.png", "NotFound")]
        assert job.notes() == ([], 0)
        again = sl.ingest(given[:1], collection="produced", root=tmp_path)
        assert again.progress().submitted == 1
    with psycopg.connect(database_url) as owner:
        stored = owner.execute(
            "select b.bytes from sightline.item i join sightline.blob b on b.digest = i.blob_digest where i.external_id = 'dot.png'"
        ).fetchall()
    assert stored == [(image.read_bytes(),)]


def test_a_producer_feeds_no_job_of_another_and_sees_none_of_its_failures(
    login: Login, client: Sightline, tmp_path: Path
) -> None:
    theirs = client.ingest([tmp_path / "gone.png"], collection="theirs")
    producer = login("sightline_producer")
    for statement in ("feed(%s, '[]')", "end_feed(%s)"):
        with pytest.raises(psycopg.errors.NoDataFound, match="of user app_producer"):
            producer.execute(f"select sightline.{statement}", (theirs.job_id,))
    assert producer.execute("select * from sightline.failures_of(%s, 10)", (theirs.job_id,)).fetchall() == []
    assert len(theirs.failures()) == 1
    reader = login("sightline_reader")
    assert len(reader.execute("select * from sightline.failures_of(%s, 10)", (theirs.job_id,)).fetchall()) == 1


def test_a_producer_who_waits_for_long_is_told_that_no_worker_serves_the_queue(
    logins: dict[str, str], database_url: str, client: Sightline
) -> None:
    with Sightline(as_login(database_url, logins["sightline_producer"]), settings=client.settings) as sl:
        job = sl.submit("encode", {}, collection="shop", items=[{"text": "patience"}])
        with structlog.testing.capture_logs() as logs, pytest.raises(TimeoutError):
            job.wait(timeout=10.5)
    assert [entry["queues"] for entry in logs] == [["encode"]]


def test_a_producer_of_python_submits_and_follows_its_job_and_no_other(
    login: Login, logins: dict[str, str], database_url: str, redis_url: str, client: Sightline
) -> None:
    with Sightline(as_login(database_url, logins["sightline_producer"]), redis_url, settings=client.settings) as sl:
        job = sl.submit("encode", {}, collection="shop", items=[{"text": "green"}], idempotency_key="once")
        assert job.progress().pending == 1
        others = client.submit("encode", {}, collection="shop", items=[{"text": "grey"}])
        with pytest.raises(Exception, match="does not exist"):
            sl.job(others.job_id).progress()
        for refused in (lambda: sl.retry(job_id=job.job_id), sl.spaces, job.cancel):
            with pytest.raises(ServiceMissing, match=r"lacks a right.*sightline_reader may search and look"):
                refused()
        with pytest.raises(RequestRefused, match="was used for another request"):
            sl.submit("encode", {}, collection="shop", items=[{"text": "pink"}], idempotency_key="once")
    # The key of one role is none of another's.
    assert (
        client.submit("encode", {}, collection="shop", items=[{"text": "green"}], idempotency_key="once").job_id
        != job.job_id
    )


def test_whoever_has_no_role_gets_nothing(login: Login) -> None:
    nobody = login("")
    for statement in ("select sightline.submit('encode', '{}', 'shop')", "select * from sightline.item"):
        with pytest.raises(REFUSED, match="schema sightline"):
            nobody.execute(statement)


def test_lent_rights_come_with_a_pinned_search_path(connection: psycopg.Connection) -> None:
    lent = connection.execute(
        "select proname, coalesce(proconfig::text, ''), has_function_privilege('public', oid, 'execute') "
        "from pg_proc where pronamespace = 'sightline'::regnamespace and prosecdef"
    ).fetchall()
    assert {name for name, _, _ in lent} >= {"submit", "my_jobs", "my_failures", "progress_of"}
    for name, configuration, public in lent:
        assert "search_path=pg_catalog, sightline" in configuration.replace('"', ""), name
        assert not public, name


def test_a_user_who_may_not_make_roles_migrates_all_the_same(stack) -> None:
    """The roles are there in this cluster: without them, or the right to make them, only a warning is left."""
    url = make_database(stack, "template0")
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("create extension vector")
        admin.execute("create role plain_owner login")
        admin.execute(f"alter database {name} owner to plain_owner")
        for role in ROLES:  # the names are taken away for a moment: a cluster that has no such roles
            admin.execute(f"alter role {role} rename to {role}_away")
    try:
        with structlog.testing.capture_logs() as logs:
            assert migrate(as_login(url, "plain_owner"))
        assert [entry["statements"] for entry in logs if "may not create roles" in entry["event"]] == [
            "; ".join(f"create role {role}" for role in ROLES)
        ]
    finally:
        with psycopg.connect(url, autocommit=True) as admin:
            for role in ROLES:
                admin.execute(f"alter role {role}_away rename to {role}")
    # The roles exist now: another migration grants, and a second database with grants does not hinder a drop of this one.
    with structlog.testing.capture_logs() as logs:
        migrate(as_login(url, "plain_owner"))
    assert [entry for entry in logs if "may not create roles" in entry["event"]] == []
    with psycopg.connect(stack.database_url, autocommit=True) as admin:
        admin.execute(f"drop database {name}")
        admin.execute("drop role plain_owner")


def test_a_role_made_by_hand_gets_its_rights_from_the_next_migration(stack, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("revoke select on sightline.item from sightline_reader")
        migrate(database_url)
        assert owner.execute(
            "select has_table_privilege('sightline_reader', 'sightline.item', 'select')"
        ).fetchone() == (True,)


def test_the_doctor_of_a_user_without_rights_says_so_and_goes_on(
    logins: dict[str, str], database_url: str, client: Sightline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sightline.doctor.machine.check_models", lambda *_: [])  # has tests of its own, and loads torch
    found = {}
    for role in ("sightline_producer", "sightline_reader"):
        url = SecretStr(as_login(database_url, logins[role]))
        settings = client.settings.model_copy(update={"database_url": url})
        found[role] = {check.name: check for check in examine(settings)}
    refused = found["sightline_producer"]["schema"]
    assert refused.state == "fail"
    assert "app_producer may not read it" in refused.found
    assert found["sightline_reader"]["schema"].state == "ok"
    assert "workers" in found["sightline_reader"]
