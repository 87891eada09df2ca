"""What is wrong with a value, in one sentence. SQL's `schema_problem` says the same, word for word."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from decimal import Decimal
from functools import cache
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from sightline.contracts.fields import Contract
from sightline.contracts.schema import Schema, schema_of
from sightline.errors import ContractViolated

M = TypeVar("M", bound=Contract)

SHOWN = 50
"""Characters of a value that a message shows."""
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def as_text(value: Any, name: str) -> str:
    """A value as JSON that Postgres can store; `name` is for the message. Raises ContractViolated."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except UnicodeEncodeError as error:
        raise ContractViolated(f"{name} holds a lone surrogate, which Postgres cannot store") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise ContractViolated(f"{name} is not JSON: {error}") from error
    if _NUL.search(text):
        raise ContractViolated(f"{name} holds a NUL character, which Postgres cannot store")
    return text


def as_value(text: str, name: str) -> Any:
    """JSON as Postgres sees it: 1.0 is 1. Raises ContractViolated."""
    try:
        return json.loads(text, parse_float=_number)
    except (ValueError, RecursionError) as error:
        raise ContractViolated(f"{name} cannot be read: {error}") from error


def _number(text: str) -> int | float:
    number = Decimal(text)
    return int(number) if number.adjusted() < 400 and number == number.to_integral_value() else float(text)


def validated(model: type[M], value: Any, name: str) -> M:
    """A value as its model; `name` is for the message. Raises ContractViolated."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problem, item = described(model, error)
        raise ContractViolated(f"{name}: {problem}", item=item) from error


def described(model: type[Contract], error: ValidationError) -> tuple[str, int | None]:
    """The first problem in words, and the number of the list's element in which it is.

    First: of one object, an unknown field before all others, then fields by name; elements by number, and then
    that there are too few.
    """
    first = min(error.errors(include_url=False, include_context=False), key=_place)
    node, path, item, last = _schema(model), "", None, len(first["loc"]) - 1
    for depth, step in enumerate(first["loc"]):
        if isinstance(step, int):
            node, path, item = node["items"], f"{path}[{step}]", step if item is None else item
            continue
        if depth == last and first["type"] == "extra_forbidden":
            return f"{path}{': ' if path else ''}unknown field {shown(step)}; fields: {_fields(node)}", item
        node, path = node["properties"].get(step, node), f"{path}.{step}" if path else step
    if first["type"] == "missing":
        return f"{path} is missing", item
    value = first["input"]
    types = node["type"] if isinstance(node["type"], list) else [node["type"]]
    is_object = isinstance(value, Mapping) and "object" in types  # then it has not exactly one of its fields
    return f"{path} {node['errorMessage']}{'' if is_object else f', not {shown(value)}'}".strip(), item


def _place(problem: ErrorDetails) -> list[tuple[bool, int | str]]:
    loc = problem["loc"]
    unknown = problem["type"] == "extra_forbidden"
    place = [(not (unknown and depth == len(loc) - 1), step) for depth, step in enumerate(loc)]
    return [*place, (True, sys.maxsize)] if problem["type"] == "too_short" else place


def _fields(node: Schema) -> str:
    return ", ".join(sorted(node["properties"]))


def shown(value: Any) -> str:
    """A value in a message: as Postgres writes its JSON."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    if isinstance(value, float):
        text = format(Decimal(repr(value)), "f")
    else:
        text = json.dumps(value, ensure_ascii=False, default=lambda other: f"<{type(other).__name__}>")
    text = text.encode("utf-8", "backslashreplace").decode()  # of a lone surrogate
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


@cache
def _schema(model: type[Contract]) -> Schema:
    return schema_of(model)
