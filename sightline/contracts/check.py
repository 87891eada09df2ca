"""Whether a payload or a call fits its contract. SQL's `check_payload` decides alike, in the same words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sightline.contracts.fields import Contract
from sightline.contracts.problem import as_text, as_value, shown, validated
from sightline.contracts.registry import CALLS, JOBS, V, served_kinds, versions_of
from sightline.errors import ContractViolated
from sightline.recipes import recipes_of


def check_payload(kind: str, payload: Mapping[str, Any]) -> Contract:
    """The payload of a job as its model, once it is known to fit.

    Raises:
        ContractViolated: it does not fit; the message says why.
    """
    return check_payload_text(kind, as_text(payload, f"payload of {kind}"))


def check_payload_text(kind: str, text: str) -> Contract:
    """The same for a payload in JSON.

    Raises:
        ContractViolated: it does not fit; the message says why.
    """
    payload = as_value(text, f"payload of {kind}")
    contract = _contract(JOBS, kind, payload, "payload")
    checked = validated(contract.payload, payload, f"payload of {kind}")
    _check_recipe(kind, checked)
    return checked


def _check_recipe(kind: str, payload: Contract) -> None:
    """The parameters of a recipe are checked by the recipe's own model, where the kind has recipes."""
    recipes = recipes_of(kind)
    if not recipes:
        return
    name = getattr(payload, "recipe", None)
    if name is None:
        return
    if name not in recipes:
        raise ContractViolated(f"payload of {kind}: unknown recipe {shown(name)}; recipes: {', '.join(recipes)}")
    recipes[name].fill(getattr(payload, "params", {}))


def check_call(message: Mapping[str, Any]) -> Contract:
    """The call of a message as its model: envelope and request.

    Raises:
        ContractViolated: it does not fit; the message says why, `item` which input is to blame.
    """
    kind = message.get("kind")
    if not isinstance(kind, str):
        raise ContractViolated("a call needs its kind" if kind is None else f"kind must be a string, not {shown(kind)}")
    contract = _contract(CALLS, kind, message, "call")
    # Not by way of text, as payloads are: a call holds megabytes of images, and comes from JSON anyway.
    return validated(contract.request, message, f"call of {kind}")


def _contract(contracts: Sequence[V], kind: str, value: Any, name: str) -> V:
    """The contract of the version that a value states, or the newest."""
    versions = versions_of(contracts, kind)
    if not versions:
        served = ", ".join(served_kinds(contracts))
        known = any(contract.kind == kind for contract in contracts)
        raise ContractViolated(
            f'kind "{kind}" is not served by this version; served: {served}'
            if known
            else f'unknown kind "{kind}"; served: {served}'
        )
    if not isinstance(value, Mapping):
        raise ContractViolated(f"{name} of {kind} must be an object, not {shown(value)}")
    version = value.get("version", max(versions))
    if isinstance(version, bool) or not isinstance(version, int) or version not in versions:
        known_versions = ", ".join(map(str, versions))
        raise ContractViolated(f"{name} of {kind}: unknown version {shown(version)}; versions: {known_versions}")
    return versions[version]
