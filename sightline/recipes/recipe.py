"""What is known of a recipe before any model is loaded: its name, papers, parameters, needs and cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sightline.contracts.fields import Contract
from sightline.contracts.problem import validated
from sightline.contracts.schema import Schema, schema_of

Need = Literal["captioner", "encoder", "matcher", "neighbours", "detector", "ocr", "attributes", "llm", "earlier"]
"""What a recipe works with beside the image. `neighbours`: vectors of the nearest stored images; `earlier`: captions
that one user gave to other images."""


@dataclass(frozen=True, slots=True)
class RecipeSpec:
    """A named, parameterised way to do a job.

    Args:
        name: in payloads and rows.
        kind: of the job.
        papers: their numbers in docs/papers.md.
        summary: one line.
        params: its parameters; every one has a default.
        needs: what it cannot do without.
        uses: what it makes use of where it is there.
        cost: of one image, in words.
        repeatable: the image and the parameters alone decide what it writes, so what is stored need not be written
            again.
    """

    name: str
    kind: str
    papers: tuple[int, ...]
    summary: str
    params: type[Contract]
    needs: tuple[Need, ...]
    cost: str
    uses: tuple[Need, ...] = ()
    repeatable: bool = False

    @property
    def schema(self) -> Schema:
        """Of the parameters, as `sightline.schema_problem` reads it."""
        return schema_of(self.params)

    def fill(self, params: Mapping[str, Any]) -> Contract:
        """The parameters with their defaults. Raises ContractViolated."""
        return validated(self.params, dict(params), f"payload of {self.kind}: params of {self.name}")
