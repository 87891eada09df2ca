"""The papers that sightline takes from, with role and state: `python -m sightline.papers > docs/papers.md`."""

from __future__ import annotations

import sys
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

from sightline.recipes import RECIPES, RecipeSpec

State = Literal["built", "in part", "not built"]

_HEAD = """# The papers

sightline takes what it can from 67 papers on images and texts. A paper is **built** where a recipe or a feature does
what it describes, **in part** where something of it is there, and otherwise **not built**. That a recipe is built says
what it computes, not that it gains: what each is worth on held-out scenes is in [Quality](quality.md).

This page is generated from `sightline/papers.toml` and from the recipes themselves (`sightline recipes`).

"""


@dataclass(frozen=True, slots=True)
class Paper:
    """One paper.

    Args:
        number: by which recipes name it.
        title: short.
        role: what it can be here.
        idea: one sentence.
        built: what of it is there beside recipes, and the file that has it.
        lacking: what of it is not there even where its recipes are; None where that is nothing.
        recipes: that are built from it.
    """

    number: int
    title: str
    role: str
    idea: str
    built: tuple[tuple[str, str], ...]
    lacking: str | None
    recipes: tuple[RecipeSpec, ...]

    @property
    def state(self) -> State:
        """How much of it is there."""
        if not self.built and not self.recipes:
            return "not built"
        return "built" if self.lacking is None else "in part"


def papers() -> tuple[Paper, ...]:
    """All papers by number."""
    listed = tomllib.loads((files("sightline") / "papers.toml").read_text(encoding="utf-8"))["paper"]
    return tuple(
        Paper(
            one["number"], one["title"], one["role"], one["idea"],
            tuple((given["what"], given["where"]) for given in one.get("built", ())), one.get("lacking"),
            tuple(spec for spec in RECIPES if one["number"] in spec.papers),
        ) for one in listed
    )  # fmt: skip


def page() -> str:
    """docs/papers.md."""
    every = papers()
    counts = ", ".join(
        f"{sum(one.state == state for one in every)} {state}" for state in ("built", "in part", "not built")
    )
    rows = "".join(_row(one) for one in every)
    return f"{_HEAD}{counts}.\n\n| | paper | role | what it does | state |\n|---|---|---|---|---|\n{rows}"


def _row(paper: Paper) -> str:
    told = [f"`{spec.name}` ({spec.kind})" for spec in paper.recipes]
    told += [f"[{what}](../{where})" for what, where in paper.built]
    state = f"**{paper.state}**" + (f": {'; '.join(told)}" if told else "")
    if paper.state == "in part":
        state += f"; not {paper.lacking}"
    return f"| {paper.number} | {paper.title} | {paper.role} | {paper.idea} | {state} |\n"


if __name__ == "__main__":
    sys.stdout.write(page())
