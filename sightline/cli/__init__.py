"""The command line: `sightline COMMAND`. Each command is a thin layer over the client."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated

import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError

from sightline import __version__
from sightline.cli import (
    caption,
    control,
    convert,
    delete,
    demo,
    doctor,
    evaluate,
    ingest,
    ledger,
    rerank,
    search,
    spaces,
    stack,
    status,
    transfer,
    worker,
)
from sightline.cli.pipe import piped_output
from sightline.errors import ServiceMissing, SightlineError
from sightline.revision import newest_revision
from sightline.settings import unknown_variables

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="GPU workers that turn images and text into searchable Postgres rows.",
    epilog="Exit codes: 0 done, 1 some items failed, 2 usage, 3 configuration or service missing, "
    "4 refused by policy, 5 internal.",
)
for module in (
    stack,
    worker,
    demo,
    ingest,
    caption,
    search,
    rerank,
    spaces,
    convert,
    transfer,
    ledger,
    control,
    delete,
    status,
    doctor,
    evaluate,
):
    module.register(app)


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sightline {__version__}, schema revision {newest_revision()}")
        raise typer.Exit


@app.callback()
def before_all(
    version: Annotated[  # noqa: ARG001 - its callback acts
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_say_version, help="Print the version and the schema that it needs."
        ),
    ] = False,
) -> None:
    """What holds for all commands."""
    for sentence in unknown_variables(os.environ):
        typer.echo(f"sightline: {sentence}", err=True)


def main() -> None:
    """Run the CLI; an expected error is one line on stderr and its exit code."""
    with piped_output():
        _run()


def _run() -> None:
    try:
        app(prog_name="sightline")
    except SightlineError as error:
        fail(str(error), error.exit_code)
    except ValidationError as error:  # of the settings: every other value is checked where it is read
        problems = [f"SIGHTLINE_{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors()]
        fail("; ".join(problems), ServiceMissing.exit_code)
    except SettingsError as error:  # names the field: a list that is no JSON
        field = str(error).split('"')[1] if '"' in str(error) else ""
        fail(f'SIGHTLINE_{field.upper()} must be a JSON list, such as ["/data"]', ServiceMissing.exit_code)
    except TimeoutError as error:
        fail(str(error), 1)
    except KeyboardInterrupt:
        fail("interrupted", 130)
    except Exception as error:  # noqa: BLE001 - the traceback is for whoever mends it, the exit code for scripts
        traceback.print_exc()
        fail(f"internal error: {type(error).__name__}: {error}", SightlineError.exit_code)


def fail(message: str, exit_code: int) -> None:
    """Say what went wrong and exit."""
    typer.echo(f"sightline: {message}", err=True)
    sys.exit(exit_code)
