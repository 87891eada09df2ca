"""Scorers by the names that users give: `matcher`, `cross-encoder:BAAI/bge-reranker-base`, `yes-no:/models/smolvlm`."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Final

from models.errors import UnsupportedModel
from models.protocols import Identity, Scorer

__all__ = ["KINDS", "ScorerName", "load_scorer", "parse_name", "version_of"]

KINDS: Final = {
    "matcher": "a matcher of BLIP format; without a model the bundled one",
    "cross-encoder": "a cross-encoder of texts (AutoModelForSequenceClassification)",
    "yes-no": "a vision-language model (AutoModelForImageTextToText) that is asked for Yes or No",
    "dual-encoder": "the cosine of vectors: what a search sorts by already",
    "late-interaction": "MaxSim over the vectors of parts: clauses, crops, stored slots",
    "endpoint": "a rerank endpoint in the shape of Cohere and Jina",
}
STORED: Final = ("dual-encoder", "late-interaction")
"""Kinds that work with the vectors of a space, and so take no model of their own."""
_NAME = re.compile(r"(?P<kind>[a-z-]+)(?::(?P<model>[^@]+)(?:@(?P<revision>.+))?)?")


@dataclass(frozen=True, slots=True)
class ScorerName:
    """A name in its parts: `kind[:model[@revision]]`."""

    kind: str
    model: str | None = None
    revision: str | None = None


def parse_name(name: str) -> ScorerName:
    """A name in its parts.

    Raises:
        UnsupportedModel: no such kind, or a kind that lacks its model or has one too many.
    """
    found = _NAME.fullmatch(name)
    if found is None or found["kind"] not in KINDS:
        raise UnsupportedModel(f"no scorer is called {name!r}; kinds are {', '.join(KINDS)}, as in cross-encoder:MODEL")
    kind, model, revision = found["kind"], found["model"], found["revision"]
    if kind in STORED and model is not None:
        raise UnsupportedModel(f"{kind} works with the vectors of a space and takes no model: leave out {model!r}")
    if kind in ("cross-encoder", "yes-no", "endpoint") and model is None:
        raise UnsupportedModel(f"{kind} needs a model: {kind}:MODEL")
    return ScorerName(kind, model, revision)


def load_scorer(name: str, device: str = "auto", dtype: str | None = None) -> Scorer:
    """Load a scorer that has a model of its own.

    Args:
        name: see `KINDS`; those of `STORED` and endpoints are not loaded here, for they need a space or a server.
        device, dtype: as of the loaders.

    Raises:
        ModelError: one of the tree in `models.errors`, with what to do about it.
    """
    given = parse_name(name)
    if given.kind == "matcher":
        from models.matcher import load_matcher

        return load_matcher(given.model or "bundled", given.revision, device, dtype)
    assert given.model is not None or given.kind in STORED
    if given.kind == "cross-encoder":
        from models.cross_encoder import load_cross_encoder

        return load_cross_encoder(given.model or "", given.revision, device, dtype)
    if given.kind == "yes-no":
        from models.yes_no import load_yes_no

        return load_yes_no(given.model or "", given.revision, device, dtype)
    raise UnsupportedModel(f"{given.kind} has no weights to load")


def version_of(identity: Identity) -> str:
    """Which scorer gave a score: 16 hexadecimal digits over what decides it. Number format and libraries are left out,
    for they change a score by less than its tolerance, and a calibration stays good."""
    decides = [
        identity.model, identity.revision, identity.kind, identity.weights, identity.tokenizer, identity.preprocessing,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:16]
