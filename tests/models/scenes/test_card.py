from __future__ import annotations

import json
from pathlib import Path

import pytest

from models.scenes.card import CARD, Card, WeightsRefused, verify, write_card


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_text("{}")
    card = Card(
        name="x", task="t", data="d", steps=1, samples=2, seconds=3.0, hardware="h", seed=0, libraries={"torch": "2"},
        figures={"recall": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10, "target": 0.6}},
    )  # fmt: skip
    write_card(tmp_path, card)
    return tmp_path


def test_untouched_weights_pass(folder: Path) -> None:
    assert verify(folder)["name"] == "x"
    assert "missed" in (folder / "README.md").read_text()


def test_weights_that_do_not_match_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weighty")
    with pytest.raises(WeightsRefused, match=r"model\.safetensors has SHA-256"):
        verify(folder)


def test_missing_files_are_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(WeightsRefused, match="missing"):
        verify(folder)


def test_weights_that_the_card_does_not_name_are_refused(folder: Path) -> None:
    (folder / "other.safetensors").write_bytes(b"")
    with pytest.raises(WeightsRefused, match="not named"):
        verify(folder)


def test_a_card_that_points_outside_its_folder_is_refused(folder: Path) -> None:
    card = json.loads((folder / CARD).read_text())
    card["files"]["../secret"] = "0"
    (folder / CARD).write_text(json.dumps(card))
    with pytest.raises(WeightsRefused, match="outside"):
        verify(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": {}}'])
def test_a_broken_card_is_refused(folder: Path, text: str) -> None:
    (folder / CARD).write_text(text)
    with pytest.raises(WeightsRefused, match="model card"):
        verify(folder)
