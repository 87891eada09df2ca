"""What the files of docker/ say, read as the tools that use them would."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
KUBERNETES = DOCKER / "kubernetes"


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Keyword and arguments of each instruction, in order."""
    text = "\n".join(line for line in dockerfile.read_text().splitlines() if not line.startswith("#"))
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in lines if line.strip())]


def stage(dockerfile: Path, name: str) -> dict[str, Any]:
    """The environment, command and health check of a stage, what it inherits from earlier ones included."""
    stages: dict[str, dict[str, Any]] = {}
    for word, rest in instructions(dockerfile):
        if word == "FROM":
            base, _, called = rest.partition(" AS ")
            inherited = stages.get(base, {"env": {}, "command": [], "entrypoint": [], "expose": set()})
            current = stages[called or base] = {
                key: value.copy() if hasattr(value, "copy") else value for key, value in inherited.items()
            }
        elif word == "ENV":
            current["env"] |= dict(pair.split("=", 1) for pair in shlex.split(rest))
        elif word in ("CMD", "ENTRYPOINT"):
            current["command" if word == "CMD" else "entrypoint"] = json.loads(rest)
        elif word == "EXPOSE":
            current["expose"].add(int(rest))
        elif word == "HEALTHCHECK":
            current["healthcheck"] = json.loads(rest.partition(" CMD ")[2])
        elif word == "USER":
            current["user"] = rest
    return stages[name]


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    return found


def filled(value: str, environment: dict[str, str]) -> str:
    """A string of the compose file with its ${VARIABLES}, with their defaults."""

    def of(match: re.Match[str]) -> str:
        name, _, default = match[1].partition(":")
        return environment.get(name) or (default[1:] if default.startswith("-") else "")

    return re.sub(r"\$\{([^}]+)\}", of, value)


def manifests() -> list[dict[str, Any]]:
    """Every object of the manifests that kustomize would apply."""
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    return [
        one for name in kustomization["resources"] for one in yaml.safe_load_all((KUBERNETES / name).read_text()) if one
    ]


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [one for one in manifests() if one["kind"] == kind]


def merged(base: Any, patch: Any) -> Any:
    """A strategic merge as far as our patches need it: objects by key, lists of named objects by name."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return base | {key: merged(base.get(key), value) for key, value in patch.items()}
    if isinstance(base, list) and isinstance(patch, list) and all("name" in one for one in base + patch):
        named = {one["name"]: one for one in base}
        return list((named | {one["name"]: merged(named.get(one["name"]), one) for one in patch}).values())
    return patch
