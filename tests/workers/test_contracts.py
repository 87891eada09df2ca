"""Rows and messages that were written around `submit`: refused with a reason, and nothing waits for ever."""

from __future__ import annotations

import json
import uuid
from typing import Any

import psycopg
import pytest

from sightline.broker import CALL_TASK, Broker, as_reply
from sightline.client import Sightline
from sightline.contracts.call import ErrorReply
from sightline.contracts.encode import EncodeReply, EncodeResult
from sightline.errors import CallFailed
from tests.workers.processes import WorkerProcess, Workers, until

pytestmark = pytest.mark.usefixtures("ledger_adds_up")


@pytest.fixture(scope="module", autouse=True)
def worker(space: str, start_worker: Workers) -> WorkerProcess:
    return start_worker()


def insert_job(connection: psycopg.Connection, payload: str, kind: str = "encode", *, space: bool = True) -> int:
    """A job of two texts, as somebody writes it who knows the tables only."""
    with connection.transaction():
        job_id = connection.execute(
            "with c as (insert into sightline.collection (name) values (%(name)s) returning collection_id), "
            "i as (insert into sightline.item (collection_id, external_id, modality, text) "
            "select collection_id, t, 'text', t from c, unnest('{a,b}'::text[]) t returning item_id), "
            "j as (insert into sightline.job (kind, payload, space_id, n_submitted, sealed_at) "
            "select %(kind)s, %(payload)s, (select space_id from sightline.space where name = 'tiny' and %(space)s), 2, now() returning job_id, space_id), "
            "k as (insert into sightline.chunk (job_id, item_ids, space_id, queue, lane) "
            "select job_id, (select array_agg(item_id) from i), space_id, 'encode', 'normal' from j) "
            "select job_id from j",
            {"name": str(uuid.uuid4()), "kind": kind, "payload": payload, "space": space},
        ).fetchone()
    assert job_id is not None
    return int(job_id[0])


@pytest.mark.parametrize(
    ("payload", "kind", "spaced", "message"),
    [
        ('{"sapce": "tiny"}', "encode", True, 'payload of encode: unknown field "sapce"; fields: space, version'),
        ('{"space": 5}', "encode", True, "payload of encode: space must be a string of 1 to 40 characters, not 5"),
        ('{"version": 2}', "encode", True, "payload of encode: unknown version 2; versions: 1"),
        ('{"x": ' + "9" * 5000 + "}", "encode", True, "payload of encode cannot be read: Exceeds the limit"),
        ("{}", "encode", False, "the chunk of a job of kind encode needs a space"),
        ('{"recipe": "paint"}', "caption", True, 'payload of caption: unknown recipe "paint"; recipes: '),
        ('{"recipe": "describe"}', "caption", False, "the chunk of a job of kind caption needs a space"),
        ("{}", "context", False, 'kind "context" is not served by this version; served: caption, encode, rerank'),
    ],
)
def test_items_of_a_job_around_submit_fail_with_the_reason(
    client: Sightline, connection: psycopg.Connection, payload: str, kind: str, spaced: bool, message: str
) -> None:
    job = client.job(insert_job(connection, payload, kind, space=spaced))
    progress = job.wait(timeout=20)
    assert (progress.done, progress.failed) == (0, 2)
    failures = job.failures()
    assert [(failure.external_id, failure.error_class, failure.attempt) for failure in failures] == [
        ("a", "ContractViolated", 1), ("b", "ContractViolated", 1),
    ]  # fmt: skip
    assert all(failure.message.startswith(message) for failure in failures)


def test_good_neighbours_in_the_same_message_are_done(client: Sightline, connection: psycopg.Connection) -> None:
    with connection.transaction():
        bad = insert_job(connection, '{"sapce": 1}')
        good = insert_job(connection, "{}")
    assert client.job(good).wait(timeout=20).done == 2
    assert client.job(bad).wait(timeout=20).failed == 2


def test_what_an_encode_job_leaves_is_what_its_contract_says(client: Sightline, connection: psycopg.Connection) -> None:
    client.ingest([{"text": "a result", "external_id": "r"}], collection="results").wait(timeout=20)
    row = connection.execute(
        "select item_id, external_id, 'tiny', modality, stale, norm, embedding::text::json from sightline.tiny_text "
        "join sightline.item using (item_id, external_id) where collection = 'results'"
    ).fetchone()
    assert row is not None
    result = EncodeResult.model_validate(dict(zip(EncodeResult.model_fields, row, strict=True)))
    assert sum(x * x for x in result.embedding) == pytest.approx(1, abs=1e-3)


def raw_call(broker: Broker, **fields: Any) -> dict[str, Any]:
    """Send a call as another language does, and read whatever is answered."""
    key = f"{broker.key_prefix}reply:{uuid.uuid4()}"
    message = {
        "kind": "encode",
        "space": "tiny",
        "inputs": [{"text": "x"}],
        "reply_key": key,
        "deadline": broker.now() + 10,
    }
    given = {name: value for name, value in (message | fields).items() if value is not None}
    broker.push("encode.interactive", CALL_TASK, [given])
    answer = broker.redis.blpop([key], timeout=10)
    assert answer is not None, "nobody answered"
    read: dict[str, Any] = json.loads(answer[1])
    return read


def test_an_answer_is_what_its_contract_says(broker: Broker) -> None:
    answer = raw_call(broker, version=1)
    assert set(answer) == {"version", "space", "vectors", "notes"}
    EncodeReply.model_validate(answer)


@pytest.mark.parametrize(
    ("fields", "item", "message"),
    [
        ({"kind": None}, None, "a call needs its kind"),
        ({"kind": 7}, None, "kind must be a string, not 7"),
        ({"kind": "context"}, None, 'kind "context" is not served by this version; served: encode, rerank'),
        ({"kind": "paint"}, None, 'unknown kind "paint"; served: encode, rerank'),
        ({"version": 2}, None, "call of encode: unknown version 2; versions: 1"),
        ({"deadline": None}, None, "call of encode: deadline is missing"),
        ({"deadline": "soon"}, None, 'call of encode: deadline must be a number from 0 to 10000000000, not "soon"'),
        ({"inputs": None}, None, "call of encode: inputs is missing"),
        ({"inputs": [{"text": "a"}, {"image": 5}]}, 1, "call of encode: inputs[1].image must be a string, not 5"),
        ({"space": "\ud800"}, None, 'call of encode: space must be a string of 1 to 40 characters, not "\\ud800"'),
        (
            {"priority": 3},
            None,
            'call of encode: unknown field "priority"; fields: deadline, inputs, kind, reply_key, space, version',
        ),
    ],
)
def test_a_bad_call_is_answered_with_the_reason(
    broker: Broker, fields: dict[str, Any], item: int | None, message: str
) -> None:
    error = ErrorReply.model_validate(raw_call(broker, **fields)).error
    assert (error.error_class, error.item, error.message) == ("ContractViolated", item, message)


@pytest.mark.parametrize("address", [5, ""])
def test_a_call_without_an_address_is_dropped_and_the_next_one_answered(
    broker: Broker, worker: WorkerProcess, address: Any
) -> None:
    before = len(worker.events("call_malformed"))
    broker.push("encode.interactive", CALL_TASK, [{"kind": "encode", "reply_key": address, "deadline": 1}])
    until(lambda: len(worker.events("call_malformed")) > before)
    assert "vectors" in raw_call(broker)


def test_an_answer_of_another_version_is_an_error_that_says_so() -> None:
    with pytest.raises(CallFailed, match=r'the worker\'s answer: unknown field "vector"; fields: .*another version'):
        as_reply(EncodeReply, {"vector": [1.0], "notes": [[]], "space": "tiny"})
