"""The configuration reference says what the settings class says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from sightline.settings import Settings, unknown_variables

PAGE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"


def test_the_page_is_what_the_class_generates() -> None:
    environment = {**os.environ, "HOME": "/home/somebody"}
    made = subprocess.run(
        [sys.executable, "-m", "sightline.configuration"], capture_output=True, text=True, check=True, env=environment
    ).stdout
    assert PAGE.read_text(encoding="utf-8") == made, "run: python -m sightline.configuration > docs/configuration.md"


def test_every_setting_is_described() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name, field in Settings.model_fields.items():
        assert field.description
        assert f"`SIGHTLINE_{name.upper()}`" in page


@pytest.mark.parametrize("name", ["MAX_BYTES", "MAX_PIXELS", "CALL_SECONDS", "LEASE_SECONDS", "CHUNK_SLOTS"])
def test_a_limit_of_nothing_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"SIGHTLINE_{name}", "0")
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        (
            "SIGHTLINE_CHUNK_SLOT",
            ["SIGHTLINE_CHUNK_SLOT is no setting and has no effect: did you mean SIGHTLINE_CHUNK_SLOTS?"],
        ),
        ("SIGHTLINE_COLOUR", ["SIGHTLINE_COLOUR is no setting and has no effect"]),
        ("sightline_lease_seconds", []),
        ("SIGHTLINE_REDIS_URL", []),
        ("SIGHTLINE_PORT_5432_TCP_ADDR", []),
        ("SIGHTLINE_SERVICE_HOST", []),
        ("SIGHTLINE_SERVICE_PORT_HTTP", []),
        ("PATH", []),
    ],
)
def test_a_misspelt_variable_is_said_and_those_of_kubernetes_are_not(variable: str, said: list[str]) -> None:
    assert unknown_variables({variable: "1"}) == said
