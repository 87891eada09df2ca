"""`sightline doctor`."""

from __future__ import annotations

import typer
from rich.markup import escape

from sightline.cli.output import JsonOption, err, out, print_json
from sightline.doctor import Check, examine
from sightline.errors import ServiceMissing
from sightline.settings import Settings

_STYLE = {"ok": "green", "warn": "yellow", "fail": "red"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def doctor(as_json: JsonOption = False) -> None:
    """Check servers, indexes, workers and this machine, and say what to change. Exits with 3 when something fails.

    Example: sightline doctor
    """
    found: list[Check] = []
    with err.status("looking ..."):
        for check in examine(Settings()):
            found.append(check)
            if not as_json:
                _print(check)
    if as_json:
        print_json(found)
    failed = sum(check.state == "fail" for check in found)
    warned = sum(check.state == "warn" for check in found)
    if not as_json:
        out.print(f"\n{len(found)} checks: {failed} failed, {warned} warnings", highlight=False)
    if failed:
        raise typer.Exit(ServiceMissing.exit_code)


def _print(check: Check) -> None:
    style = _STYLE[check.state]
    out.print(
        f"[{style}]{check.state:<4}[/{style}]  [bold]{escape(check.name)}[/bold]: {escape(check.found)}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    if check.advice:
        out.print(f"      -> {check.advice}", highlight=False, soft_wrap=True, markup=False)
