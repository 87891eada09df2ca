"""The reference of all commands, from their own help: `python -m sightline.cli.reference > docs/cli.md`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any

import typer

from sightline.cli import app

_HEAD = """# Commands

Every command has `--help`, and `--json` where it prints data. An error is one line on stderr that says what to do. Exit
codes: 0 done, 1 some items failed, 2 usage, 3 configuration or service missing, 4 refused by policy, 5 internal.

This page is generated from the commands themselves.
"""


def commands() -> Iterator[tuple[str, Any]]:
    """Each command of the tree with its full name, in the order of `sightline --help`."""
    yield from _below("sightline", typer.main.get_command(app))


def _below(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    if hasattr(command, "commands"):
        for word, child in command.commands.items():
            yield from _below(f"{name} {word}", child)
    else:
        yield name, command


def example(command: Any) -> str:
    """The command line after `Example:` in a command's help. Raises ValueError when there is none."""
    _, found, line = inspect.cleandoc(command.help or "").rpartition("Example: ")
    if not found:
        raise ValueError(f"{command.name} has no line `Example: ...`")
    return line.strip()


def reference() -> str:
    """The page as markdown."""
    return _HEAD + "".join(_section(name, command) for name, command in commands())


def _section(name: str, command: Any) -> str:
    text, _, _ = inspect.cleandoc(command.help or "").rpartition("Example: ")
    arguments = "".join(f" {_metavar(p)}" for p in command.params if p.param_type_name == "argument")
    rows = [row for p in command.params if (row := _row(p))]
    table = "\n".join(["| | default | meaning |", "|---|---|---|", *rows]) + "\n" if rows else ""
    return f"\n## `{name}{arguments}`\n\n{text.strip()}\n\nFor example: `{example(command)}`\n" + (
        "\n" + table if table else ""
    )


def _metavar(param: Any) -> str:
    word = (param.metavar or param.name).upper()
    return f"{word if param.required else f'[{word}]'}{'...' if param.nargs == -1 else ''}"


def _row(param: Any) -> str | None:
    if param.param_type_name == "argument":
        names = _metavar(param)
    else:
        if "--help" in param.opts:
            return None
        names = ", ".join([*param.opts, *param.secondary_opts])
    default = (
        ""
        if param.default is None or param.required or param.default in ([], (), False)
        else f"`{_plain(param.default)}`"
    )
    meaning = (param.help or "").replace("|", "\\|")
    return f"| `{names}` | {default} | {meaning} |"


def _plain(default: Any) -> str:
    return "yes" if default is True else str(default)


if __name__ == "__main__":
    sys.stdout.write(reference())
