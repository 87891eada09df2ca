from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import torch

from models.scenes.team import Team, together


def _work(folder: Path, team: Team) -> None:
    weight = torch.nn.Parameter(torch.zeros(3))
    weight.grad = torch.full((3,), float(team.rank + 1))
    idle = torch.nn.Parameter(torch.zeros(2))
    seconds = team.average([weight, idle], 5.0 + team.rank)
    found = {"grad": weight.grad.tolist(), "seconds": seconds, "leads": team.leads}
    (folder / f"{team.rank}.json").write_text(json.dumps(found))


def test_a_team_averages_its_gradients_and_keeps_one_clock(tmp_path: Path) -> None:
    together(2, partial(_work, tmp_path))
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["grad"] == second["grad"] == [1.5] * 3
    assert first["seconds"] == second["seconds"] == 5.0
    assert (first["leads"], second["leads"]) == (True, False)


def test_a_team_of_one_changes_nothing(tmp_path: Path) -> None:
    together(1, partial(_work, tmp_path))
    assert json.loads((tmp_path / "0.json").read_text()) == {"grad": [1.0] * 3, "seconds": 5.0, "leads": True}
