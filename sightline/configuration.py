"""The configuration reference, from the settings class: `python -m sightline.configuration > docs/configuration.md`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from sightline.settings import Settings

_HEAD = """# Configuration

Every setting is an environment variable; client, CLI and worker read the same ones, once, at their start. DSNs are
never printed but by `sightline dsn`. A value that cannot be used ends a command with exit code 3 and names the
variable. A variable `SIGHTLINE_...` that is no setting has no effect; `sightline` says so on stderr.

This page is generated from the class `sightline.settings.Settings`.

| variable | value | default | meaning |
|---|---|---|---|
"""


def reference() -> str:
    """The page as markdown: one row for each field of `Settings`."""
    prefix = Settings.model_config.get("env_prefix", "")
    rows = [
        f"| `{prefix}{name.upper()}` | {_value(field.annotation)} | {_default(field)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return _HEAD + "\n".join(rows) + "\n"


def _value(annotation: object) -> str:
    """What may stand in the variable, in words."""
    options = [option for option in get_args(annotation) if option is not type(None)]
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{option}`" for option in options)
    if annotation == list[Path]:
        return "JSON list of folders"
    if annotation == list[str]:
        return "JSON list of texts"
    if len(options) == 1:
        return _value(options[0])
    words: dict[object, str] = {SecretStr: "DSN", Path: "folder", int: "whole number", float: "number", str: "text"}
    return words[annotation]


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        made = field.get_default(call_default_factory=True)
        return f"`{json.dumps(made)}`" if isinstance(made, list) else f"`{_tilde(made)}`"
    if field.default is None:
        return ""
    return f"`{field.default}`"


def _tilde(path: object) -> str:
    return f"~/{Path(str(path)).relative_to(Path.home())}"


if __name__ == "__main__":
    print(reference(), end="")  # noqa: T201 - the page
