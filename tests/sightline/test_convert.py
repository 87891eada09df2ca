"""`sightline convert`, the command; what it makes is tested in tests/models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.models.tiny_checkpoints import build_clip


@pytest.fixture
def old(tmp_path: Path) -> Path:
    folder = build_clip(tmp_path / "old")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def convert(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sightline", "convert", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_the_command_makes_a_model_and_prints_it_as_json(old: Path, tmp_path: Path) -> None:
    done = convert(old, tmp_path / "new", "--json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert (made["folder"], made["unchanged"], made["skipped"]) == (str(tmp_path / "new"), False, [])
    assert made["passport"] == {
        key: value
        for key, value in json.loads((tmp_path / "new" / "passport.json").read_text()).items()
        if key != "converted_from"
    }
    assert done.stderr == ""


def test_a_pickle_that_would_run_something_is_refused_by_policy_in_one_line(old: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"weight": Evil()}, old / "pytorch_model.bin")
    done = convert(old, tmp_path / "new")
    assert done.returncode == 4
    assert done.stderr.startswith("sightline: pytorch_model.bin asks for posix.system")
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old"]
