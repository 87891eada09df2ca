"""docs/papers.md: every paper once, and nothing called built that is not there."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from models.recipes import load_recipe
from sightline.papers import page, papers
from sightline.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_current() -> None:
    told = "run: python -m sightline.papers > docs/papers.md"
    assert (ROOT / "docs" / "papers.md").read_text(encoding="utf-8") == page(), told


def test_all_67_papers_are_listed_once_and_in_order() -> None:
    every = papers()
    assert [paper.number for paper in every] == list(range(1, 68))
    assert len({paper.title for paper in every}) == 67
    known = {paper.number for paper in every}
    assert all(number in known for spec in RECIPES for number in spec.papers)


def test_what_is_called_built_is_there() -> None:
    for paper in papers():
        for what, where in paper.built:
            assert (ROOT / where).is_file(), (paper.number, what, where)
        for spec in paper.recipes:
            if spec.kind == "caption":
                assert import_module(type(load_recipe(spec.name)).__module__)
