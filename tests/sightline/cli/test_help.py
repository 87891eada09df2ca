"""Every command explains itself, and the reference is up to date."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from sightline import __version__
from sightline.cli import app
from sightline.cli.reference import commands, example
from sightline.revision import newest_revision
from tests.sightline.cli.conftest import Cli

PAGE = Path(__file__).resolve().parents[3] / "docs" / "cli.md"
COMMANDS = dict(commands())
PRINT_NO_DATA = {"sightline up", "sightline worker", "sightline demo"}
DESIGNED = [
    "up",
    "demo",
    "ingest",
    "search",
    "spaces",
    "jobs",
    "failures",
    "retry",
    "dismiss",
    "cancel",
    "pause",
    "resume",
    "status",
    "worker",
    "migrate",
    "doctor",
    "dsn",
    "export",
]


def test_the_version_names_the_schema_that_it_needs(cli: Cli) -> None:
    ended = cli("--version")
    assert (ended.code, ended.out) == (0, f"sightline {__version__}, schema revision {newest_revision()}\n")


def test_the_commands_of_the_design_are_there() -> None:
    assert {f"sightline {name}" for name in DESIGNED} <= set(COMMANDS)
    assert {f"sightline space {name}" for name in ("create", "alias", "index", "import")} <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_help_an_example_that_parses_and_json(name: str) -> None:
    command = COMMANDS[name]
    assert len(command.help.split("Example:")[0].split()) >= 3
    words = shlex.split(example(command))
    path = name.split()
    assert words[: len(path)] == path
    command.make_context(name, words[len(path) :])  # an option that does not exist raises
    for param in command.params:
        assert param.help, f"{name}: {param.name} has no help"
        assert param.help.endswith((".", ")", "}")), f"{name}: {param.name}: {param.help!r} is no sentence"
    options = {option for param in command.params for option in param.opts}
    assert ("--json" in options) == (name not in PRINT_NO_DATA)


def test_groups_have_help() -> None:
    root: Any = typer.main.get_command(app)
    for command in root.commands.values():
        assert command.help


def test_the_reference_is_up_to_date() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "sightline.cli.reference"], capture_output=True, text=True, check=True, env=os.environ
    ).stdout
    assert PAGE.read_text(encoding="utf-8") == made, "run: python -m sightline.cli.reference > docs/cli.md"
