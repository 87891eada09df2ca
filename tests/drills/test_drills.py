"""Failure drills with real processes: `pytest -m drill` plays all of them as `make drills` does, `make test` a brief few."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drills.catalogue import BRIEF, Drill, drills
from tests.drills.house import House
from tests.drills.stage import Stage


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with House() as built:
        yield built


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "drill" in metafunc.fixturenames:
        everything = "drill" in metafunc.config.option.markexpr
        chosen = [drill for drill in drills().values() if everything or drill.brief]
        settings = {} if everything else BRIEF
        metafunc.parametrize(
            ("drill", "settings"), [(drill, settings) for drill in chosen], ids=[d.name for d in chosen]
        )


@pytest.mark.drill
@pytest.mark.timeout(600)
def test_drill(drill: Drill, settings: dict[str, object], house: House, tmp_path: Path) -> None:
    if drill.missing:
        pytest.skip(f"{drill.missing} is not here")
    with Stage(house, tmp_path / "stage", settings) as stage:
        drill.play(stage)
