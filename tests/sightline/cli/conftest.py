"""The command line in this process: what it prints, and what it exits with."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog

from sightline.cli import main


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """What --json printed."""
        return json.loads(self.out)


Cli = Callable[..., Ended]


@pytest.fixture
def logging_restored() -> Iterator[None]:
    """Commands log to the stderr of their own test; nobody may keep that."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, logging_restored: None
) -> Cli:
    """Run `sightline ARGUMENTS` with an environment of its own: keyword arguments are settings."""

    def run(*arguments: str, **settings: object) -> Ended:
        with monkeypatch.context() as patch:
            for name, value in {"home": tmp_path / "home", **settings}.items():
                patch.setenv(f"SIGHTLINE_{name.upper()}", str(value))
            patch.setattr("sys.argv", ["sightline", *arguments])
            capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                main()
        printed = capsys.readouterr()
        code = ended.value.code
        return Ended(code if isinstance(code, int) else 0, printed.out, printed.err)

    return run


@pytest.fixture
def given(cli: Cli, database_url: str, redis_url: str) -> Cli:
    """The same on the module's database."""
    return lambda *arguments, **settings: cli(
        *arguments, **{"database_url": database_url, "redis_url": redis_url, **settings}
    )
