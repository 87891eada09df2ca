"""JSON Schemas of contracts: self-contained, and each node says in words what it must be.

They use a subset that `sightline.schema_problem` (SQL) understands: `type` (with "null" for what may be null),
`const`, `enum`, `minLength`, `maxLength`, `pattern`, `minimum`, `maximum`, `items`, `minItems`, `maxItems`,
`properties`, `required`, `additionalProperties: false` and `maxProperties: 1`. `errorMessage` is the node in words; a
node without `type` takes any JSON.
"""

from __future__ import annotations

import json
from typing import Any

from sightline.contracts.fields import Contract

Schema = dict[str, Any]

_ANY = {"$ref": "#/$defs/JsonValue"}
_KNOWN = {
    "type", "const", "enum", "minLength", "maxLength", "pattern", "minimum", "maximum", "items", "minItems", "maxItems",
    "properties", "required", "additionalProperties", "minProperties", "maxProperties", "description", "default",
}  # fmt: skip


def schema_of(model: type[Contract]) -> Schema:
    """The schema of a model, without references.

    Raises:
        ValueError: the model uses what SQL cannot check.
    """
    schema = model.model_json_schema(by_alias=True)
    return _inlined(schema, schema.get("$defs", {}))


def shape_of(schema: Any) -> Any:
    """A schema without its words: what must not change once it is published."""
    if isinstance(schema, dict):
        words = {"description", "errorMessage", "title"}
        return {key: shape_of(value) for key, value in schema.items() if key not in words or isinstance(value, dict)}
    return [shape_of(value) for value in schema] if isinstance(schema, list) else schema


def _inlined(node: Schema, definitions: Schema) -> Schema:
    node = _resolved(node, definitions)
    left_out = {"$ref", "$defs", "anyOf", "title", "errorMessage"}
    if node.get("additionalProperties") == _ANY:
        left_out.add("additionalProperties")  # any JSON, which is the default
    elif node.get("additionalProperties"):
        raise ValueError(f"SQL does not check the values of a mapping: {node}")
    node = {key: value for key, value in node.items() if key not in left_out}
    if unknown := node.keys() - _KNOWN:
        raise ValueError(f"SQL does not know how to check {', '.join(sorted(unknown))}: {node}")
    if "items" in node:
        node["items"] = _inlined(node["items"], definitions)
    if "properties" in node:
        fields = {name: _inlined(inner, definitions) for name, inner in node["properties"].items()}
        one = node.get("maxProperties") == 1
        node["properties"] = {name: _not_null(field) for name, field in fields.items()} if one else fields
    if "type" in node:
        node["errorMessage"] = f"must be {_in_words(node)}"
    return node


def _resolved(node: Schema, definitions: Schema) -> Schema:
    """A node with what it refers to, and with the type of what may be null."""
    if "$ref" in node:
        node = {**definitions[node["$ref"].rsplit("/", 1)[1]], **node}
    if "anyOf" in node:
        node = {**_inlined(_of_nullable(node), definitions), **node}
        node["type"] = [node["type"], "null"]
        if "enum" in node:
            node["enum"] = [*node["enum"], None]
    return node


def _of_nullable(node: Schema) -> Schema:
    """The type of an optional field, without null."""
    inner, *null = node["anyOf"]
    if null != [{"type": "null"}]:
        raise ValueError(f"only a choice between a type and null can be checked in SQL, not {node['anyOf']}")
    return dict(inner)


def _not_null(node: Schema) -> Schema:
    """The only field of an object: null would be none."""
    node = {key: value for key, value in node.items() if key != "default"} | {"type": node["type"][0]}
    return node | {"errorMessage": f"must be {_in_words(node)}"}


def _in_words(node: Schema) -> str:
    """What a value must be: "a whole number from 1 to 10, or null"."""
    kind, *null = node["type"] if isinstance(node["type"], list) else [node["type"]]
    return _kind_in_words(kind, node) + (" or null" if null else "")


def _kind_in_words(kind: str, node: Schema) -> str:
    if "const" in node:
        return json.dumps(node["const"])
    if "enum" in node:
        return f"one of {', '.join(json.dumps(value) for value in node['enum'] if value is not None)}"
    if node.get("maxProperties") == 1:
        return f"an object with exactly one of {', '.join(sorted(node['properties']))}"
    pattern = f" that matches {node['pattern']}" if "pattern" in node else ""
    return {
        "string": "a string" + _range(node, "Length", " of", " characters") + pattern,
        "integer": "a whole number" + _range(node, "imum", " from", ""),
        "number": "a number" + _range(node, "imum", " from", ""),
        "array": "a list" + _range(node, "Items", " of", " elements"),
        "object": "an object",
        "boolean": "true or false",
    }[kind]


def _range(node: Schema, bound: str, before: str, after: str) -> str:
    low, high = node.get(f"min{bound}"), node.get(f"max{bound}")
    if high is None:
        if low is None:
            return ""
        return f"{before.replace('from', 'of')} at least {_bound(low)}{after}"
    return f"{before} {_bound(low or 0)} to {_bound(high)}{after}"


def _bound(number: float) -> str:
    return str(int(number)) if number == int(number) else repr(number)
