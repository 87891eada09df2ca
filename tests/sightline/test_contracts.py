"""Contracts: Python and SQL refuse the same payloads in the same words, and nothing published changes unseen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb
from pydantic import ValidationError

from sightline.client import Sightline
from sightline.contracts.caption import CaptionPayload
from sightline.contracts.check import check_call, check_payload, check_payload_text
from sightline.contracts.documents import documents, parts
from sightline.contracts.encode import EncodePayload
from sightline.contracts.problem import as_text, as_value, validated
from sightline.contracts.registry import CALLS, JOBS
from sightline.contracts.schema import schema_of, shape_of
from sightline.errors import ContractViolated, RequestRefused
from sightline.recipes import RECIPES, recipes_of

ROOT = Path(__file__).resolve().parents[2]
CAPTIONS = recipes_of("caption")
GOLDEN = Path(__file__).with_name("contracts.golden.json")
PARTS = {name: (model, served) for name, model, served in parts()}
golden: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8"))


def problem_of(check: Callable[..., object], *arguments: Any) -> str | None:
    try:
        check(*arguments)
    except ContractViolated as error:
        return str(error)
    return None


# Random values --------------------------------------------------------------------------------------------------------

# What Postgres can store: no NUL, no lone surrogate.
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60)
numbers = (
    st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0, 1, -1, 1.0, -0.0, 1e20, 1e300, -1.7e308, 5e-324, 1.5, 10_000, 10_001, 10**400])
)
scalars = st.none() | st.booleans() | numbers | texts
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)
NEAR_TEXTS = ["", "current", "fusecap", "best-of-n\n", "en", "pt-BR", "0" * 64, "x" * 40, "x" * 41, "é" * 201]


def near(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that fit a schema, and values that miss it by a little."""
    kinds = schema.get("type", [])
    options: list[st.SearchStrategy[Any]] = [scalars] if kinds else [anything]
    if "const" in schema or "enum" in schema:
        options = [st.sampled_from(schema.get("enum") or [schema["const"]])]
    elif "string" in kinds:
        options = [texts, st.sampled_from(NEAR_TEXTS)]
    elif "number" in kinds or "integer" in kinds:
        options = [st.integers(-1, 10_001), st.floats(-0.1, 1.1), numbers]
    elif "array" in kinds:
        options = [st.lists(near(schema["items"]), max_size=3)]
    elif "properties" in schema:
        fields = {name: near(field) for name, field in schema["properties"].items()}
        complete = st.fixed_dictionaries(fields)
        options = [
            complete,
            st.tuples(complete, st.sampled_from(sorted(fields))).map(
                lambda p: {k: v for k, v in p[0].items() if k != p[1]}
            ),
            st.tuples(
                complete, st.dictionaries(texts | st.sampled_from(["Version", "spaces"]), scalars, max_size=2)
            ).map(lambda p: p[1] | p[0]),
        ]
    elif "object" in kinds:
        options = [st.dictionaries(texts, anything, max_size=3)]
    return st.one_of(*options, *options, anything)


def broken(name: str, schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Golden examples with a field or two changed, added or left out: most of their fields are right."""

    def change(parts: tuple[dict[str, Any], dict[str, Any], list[str]]) -> dict[str, Any]:
        good, changes, without = parts
        return {key: value for key, value in (good | changes).items() if key not in without}

    fields = {key: near(field) for key, field in schema["properties"].items()}
    changes = st.sampled_from(sorted(fields)).flatmap(lambda key: st.fixed_dictionaries({key: fields[key]}))
    names = st.lists(st.sampled_from(sorted(fields)), max_size=1)
    return st.tuples(st.sampled_from(golden[name]["good"]), changes | st.just({}), names).map(change)


@pytest.mark.parametrize("name", PARTS)
def test_sql_and_python_find_the_same_problem(name: str, database_url: str) -> None:
    model = PARTS[name][0]
    schema = schema_of(model)
    ask = "select sightline.schema_problem(%s, %s)"
    with psycopg.connect(database_url, autocommit=True) as connection:
        for good in golden[name]["good"]:
            assert connection.execute(ask, (Jsonb(schema), Jsonb(good))).fetchone() == (None,)

        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
        @given(broken(name, schema) | near(schema))
        def agree(value: Any) -> None:
            row = connection.execute(ask, (Jsonb(schema), Jsonb(value))).fetchone()
            in_python = problem_of(validated, model, as_value(as_text(value, "it"), "it"), "it")
            assert in_python == (row[0] and (f"it: {row[0]}"))

        agree()


@pytest.fixture(scope="module")
def space(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("select sightline.create_space('toy', 'points', 4)")
        connection.execute("select sightline.alias_space('current', 'toy')")


def test_sql_and_python_refuse_a_job_in_the_same_words(database_url: str) -> None:
    payload_schema = schema_of(EncodePayload)
    with psycopg.connect(database_url, autocommit=True) as connection:

        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
        @given(
            st.sampled_from(["encode"] * 4 + ["rerank", "paint", "", 'a "kind"', "Encode"]) | texts,
            near(payload_schema),
        )
        @example("encode", {})
        @example("encode", {"version": 1.0, "space": "current"})
        @example("encode", {"version": True})
        @example("encode", {"version": 2, "spcae": ""})
        @example("encode", {"version": None})
        @example("encode", [])
        @example("encode", None)
        @example("rerank", {})
        def agree(kind: str, payload: Any) -> None:
            row = connection.execute("select sightline.contract_problem(%s, %s)", (kind, Jsonb(payload))).fetchone()
            assert (problem_of(check_payload, kind, payload),) == row

        agree()


@pytest.mark.parametrize("name", sorted(CAPTIONS))
def test_sql_and_python_refuse_parameters_of_a_recipe_in_the_same_words(name: str, database_url: str) -> None:
    schema = CAPTIONS[name].schema
    with psycopg.connect(database_url, autocommit=True) as connection:

        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
        @given(near(schema))
        @example({})
        def agree(params: Any) -> None:
            payload = {"recipe": name, "params": params}
            row = connection.execute("select sightline.contract_problem('caption', %s)", (Jsonb(payload),)).fetchone()
            assert (problem_of(check_payload, "caption", payload),) == row

        agree()


# Refusals by name -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "payload", "message"),
    [
        ("encode", {"sapce": "toy"}, 'payload of encode: unknown field "sapce"; fields: space, version'),
        ("encode", {"space": 5}, "payload of encode: space must be a string of 1 to 40 characters, not 5"),
        ("encode", {"space": ""}, 'payload of encode: space must be a string of 1 to 40 characters, not ""'),
        ("encode", {"version": 9}, "payload of encode: unknown version 9; versions: 1"),
        ("encode", [1, 2], "payload of encode must be an object, not a list of 2"),
        ("paint", {}, 'unknown kind "paint"; served: caption, encode, rerank'),
        ("context", {}, 'kind "context" is not served by this version; served: caption, encode, rerank'),
        ("caption", {"recipe": "paint"}, 'payload of caption: unknown recipe "paint"; recipes: ' + ", ".join(CAPTIONS)),
        (
            "caption",
            {"recipe": "guided", "params": {"gamma": 0}},
            "payload of caption: params of guided: gamma must be a number from 1 to 10, not 0",
        ),
    ],
)
def test_a_job_that_cannot_be_done_is_never_queued(
    client: Sightline, connection: psycopg.Connection, space: None, kind: str, payload: Any, message: str
) -> None:
    with pytest.raises(ContractViolated) as in_python:
        client.submit(kind, payload, collection="c", items=[{"text": "a"}])
    with pytest.raises(psycopg.errors.InvalidParameterValue) as in_sql:
        connection.execute("select sightline.submit(%s, %s, 'c', '[{\"text\": \"a\"}]')", (kind, Jsonb(payload)))
    assert (str(in_python.value), in_sql.value.diag.message_primary) == (message, message)
    assert isinstance(in_python.value, RequestRefused)
    assert connection.execute("select count(*) from sightline.job").fetchone() == (0,)


def test_the_order_of_problems_is_that_of_names() -> None:
    wrong = {"embed": 1, "lang": "english!", "zzz": 1, "aaa": 1, "recipe": None}
    messages = []
    for name in ("aaa", "zzz", "embed", "lang", "recipe"):
        messages.append(problem_of(validated, CaptionPayload, wrong, "it"))
        wrong.pop(name)
    assert messages == [
        'it: unknown field "aaa"; fields: embed, lang, model, params, recipe, space, version',
        'it: unknown field "zzz"; fields: embed, lang, model, params, recipe, space, version',
        "it: embed must be true or false, not 1",
        'it: lang must be a string that matches ^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*$, not "english!"',
        "it: recipe must be a string that matches ^[a-z][a-z0-9-]{0,59}$, not null",
    ]
    assert problem_of(validated, CaptionPayload, {}, "it") == "it: recipe is missing"


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"space": "a\0b"}, "payload of encode holds a NUL character, which Postgres cannot store"),
        ({"space": "\ud800"}, "payload of encode holds a lone surrogate, which Postgres cannot store"),
        ({"space": float("nan")}, "payload of encode is not JSON: Out of range float values are not JSON compliant"),
        ({"space": {1}}, "payload of encode is not JSON: Object of type set is not JSON serializable"),
    ],
)
def test_what_is_not_json_is_said_so(client: Sightline, payload: Any, message: str) -> None:
    with pytest.raises(ContractViolated) as caught:
        client.submit("encode", payload, collection="c")
    assert str(caught.value).startswith(message)


def test_an_escaped_backslash_is_no_nul() -> None:
    assert problem_of(check_payload, "encode", {"space": "\\u0000"}) is None


def test_stored_json_that_python_cannot_read_is_a_problem_and_no_crash() -> None:
    for text in ('{"space": ' + "9" * 5000 + "}", '{"a":' * 100_000 + "1" + "}" * 100_000):
        assert "payload of encode cannot be read: " in str(problem_of(check_payload_text, "encode", text))


def test_a_job_keeps_the_version_it_was_submitted_under(
    connection: psycopg.Connection, client: Sightline, space: None
) -> None:
    job = client.submit("encode", {"space": "toy"}, collection="versions", items=[])
    row = connection.execute("select payload from sightline.job where job_id = %s", (job.job_id,)).fetchone()
    assert row == ({"space": "toy", "version": 1},)


def test_a_version_that_no_worker_serves_is_unknown_and_the_newest_served_one_counts(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:  # rolled back
        connection.execute(
            "insert into sightline.job_contract select kind, v, schema, v < 3 from sightline.job_contract, (values (2), (3)) n(v) "
            "where kind = 'encode'"
        )
        connection.execute('update sightline.job_contract set schema = \'{"type": "object"}\' where version = 2')
        ask = "select (sightline.check_payload('encode', %s)).*"
        assert connection.execute(ask, (Jsonb({"anything": 1}),)).fetchone() == (2, None)
        assert connection.execute(ask, (Jsonb({"version": 1, "x": 1}),)).fetchone() == (
            1, 'payload of encode: unknown field "x"; fields: space, version',
        )  # fmt: skip
        assert connection.execute(ask, (Jsonb({"version": 3}),)).fetchone() == (
            None, "payload of encode: unknown version 3; versions: 1, 2",
        )  # fmt: skip
        connection.rollback()


@pytest.mark.parametrize(
    ("message", "problem", "item"),
    [
        ({}, "a call needs its kind", None),
        ({"kind": 3}, "kind must be a string, not 3", None),
        ({"kind": "paint"}, 'unknown kind "paint"; served: encode, rerank', None),
        ({"kind": "context"}, 'kind "context" is not served by this version; served: encode, rerank', None),
        ({"kind": "encode", "version": 2}, "call of encode: unknown version 2; versions: 1", None),
        ({"kind": "encode", "inputs": [{"text": "a"}], "reply_key": "r"}, "call of encode: deadline is missing", None),
        (
            {"kind": "encode", "inputs": [{"text": "a"}, {"text": 5}], "reply_key": "r", "deadline": 1},
            "call of encode: inputs[1].text must be a string, not 5",
            1,
        ),
    ],
)
def test_a_bad_call_is_explained(message: dict[str, Any], problem: str, item: int | None) -> None:
    with pytest.raises(ContractViolated) as caught:
        check_call(message)
    assert (str(caught.value), caught.value.item) == (problem, item)


# What is published ----------------------------------------------------------------------------------------------------


def test_what_is_made_from_the_contracts_is_fresh() -> None:
    made = documents(ROOT)
    stale = [
        str(path.relative_to(ROOT))
        for path, content in made.items()
        if not path.is_file() or path.read_text("utf-8") != content
    ]
    stale += [str(path.relative_to(ROOT)) for path in (ROOT / "docs/contracts").iterdir() if path not in made]
    assert not stale, "run python -m sightline.contracts"


def test_the_table_holds_what_the_models_say(connection: psycopg.Connection) -> None:
    rows = connection.execute("select kind, version, schema, served from sightline.job_contract").fetchall()
    expected = {(job.kind, job.version): (schema_of(job.payload), job.served) for job in JOBS}
    assert {(kind, version): (schema, served) for kind, version, schema, served in rows} == expected
    assert {kind for kind, _ in expected} == {"encode", "caption", "rerank", "context"}


def test_the_table_of_recipes_holds_what_the_registry_says(connection: psycopg.Connection) -> None:
    rows = connection.execute(
        "select kind, name, papers, needs, uses, summary, cost, params from sightline.recipe"
    ).fetchall()
    expected = {
        (spec.kind, spec.name): (
            list(spec.papers),
            list(spec.needs),
            list(spec.uses),
            spec.summary,
            spec.cost,
            spec.schema,
        )
        for spec in RECIPES
    }
    assert {(kind, name): tuple(rest) for kind, name, *rest in rows} == expected


@pytest.mark.parametrize("name", PARTS)
def test_a_published_contract_does_not_change(name: str) -> None:
    model, served = PARTS[name]
    shape = json.dumps(shape_of(schema_of(model)), sort_keys=True)
    digest = hashlib.sha256(shape.encode()).hexdigest()
    advice = (
        f"{name} is published: undo the change, and add the next version instead"
        if served and name in golden
        else f"nobody uses {name} yet: write its digest {digest} and examples into {GOLDEN.name}"
    )
    assert golden.get(name, {}).get("digest") == digest, advice


@pytest.mark.parametrize("name", sorted(golden))
def test_the_golden_examples_are_still_understood(name: str) -> None:
    assert name in PARTS, f"{name} was published: workers and ledgers may still hold it"
    model = PARTS[name][0]
    assert golden[name]["good"]
    for good in golden[name]["good"]:
        model.model_validate(good)
    for bad, message in golden[name]["bad"]:
        with pytest.raises(ValidationError):
            model.model_validate(bad)
        assert problem_of(validated, model, bad, name.split(".", maxsplit=1)[0]) == message


def test_models_are_closed_and_frozen() -> None:
    for contract in (*JOBS, *CALLS):
        for model in (
            (contract.payload, contract.result) if hasattr(contract, "payload") else (contract.request, contract.reply)
        ):
            assert model.model_config["extra"] == "forbid"
            assert model.model_config["strict"]
    payload = EncodePayload()
    with pytest.raises(ValidationError, match="frozen"):
        payload.space = "other"  # type: ignore[misc]
