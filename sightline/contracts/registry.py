"""Which contracts there are, and which of them this version serves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from sightline.contracts.caption import CaptionPayload, CaptionResult
from sightline.contracts.context import ContextCall, ContextPayload, ContextReply, ContextResult
from sightline.contracts.encode import EncodeCall, EncodePayload, EncodeReply, EncodeResult
from sightline.contracts.fields import Contract
from sightline.contracts.rerank import RerankCall, RerankPayload, RerankReply, RerankResult


class Versioned(Protocol):
    """One version of one kind."""

    @property
    def kind(self) -> str:
        """Of job or call."""

    @property
    def version(self) -> int:
        """From 1."""

    @property
    def served(self) -> bool:
        """Whether a worker of this version of sightline does it."""


V = TypeVar("V", bound=Versioned)


@dataclass(frozen=True, slots=True)
class JobContract:
    """What a job is given beside its items, and what it leaves for each of its results."""

    kind: str
    version: int
    payload: type[Contract]
    result: type[Contract]
    served: bool


@dataclass(frozen=True, slots=True)
class CallContract:
    """What a call asks, envelope included, and what it answers."""

    kind: str
    version: int
    request: type[Contract]
    reply: type[Contract]
    served: bool


JOBS = (
    JobContract("encode", 1, EncodePayload, EncodeResult, served=True),
    JobContract("caption", 1, CaptionPayload, CaptionResult, served=True),
    JobContract("rerank", 1, RerankPayload, RerankResult, served=True),
    JobContract("context", 1, ContextPayload, ContextResult, served=False),
)

CALLS = (
    CallContract("encode", 1, EncodeCall, EncodeReply, served=True),
    CallContract("rerank", 1, RerankCall, RerankReply, served=True),
    CallContract("context", 1, ContextCall, ContextReply, served=False),
)


def served_kinds(contracts: Sequence[Versioned]) -> list[str]:
    """Names of the kinds that are served, in order."""
    return sorted({contract.kind for contract in contracts if contract.served})


def versions_of(contracts: Sequence[V], kind: str) -> dict[int, V]:
    """The served versions of a kind, the newest last."""
    found = {contract.version: contract for contract in contracts if contract.kind == kind and contract.served}
    return dict(sorted(found.items()))
