"""The model card beside a folder of weights, and the check that the weights are the ones it speaks of."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

CARD: Final = "card.json"
_LOADED: Final = (".safetensors", "config.json", "tokenizer.json")


class WeightsRefused(ValueError):
    """The files of a model are not the ones its card describes; train again or restore them from the repository."""


@dataclass(frozen=True, slots=True)
class Card:
    """What a reader must know of a model before using it. ``files`` maps file names to SHA-256 digests."""

    name: str
    task: str
    data: str
    steps: int
    samples: int
    seconds: float
    hardware: str
    seed: int
    libraries: dict[str, str]
    figures: dict[str, Any] = field(default_factory=dict)
    evaluated: str = ""
    limits: tuple[str, ...] = ()
    licence: str = "Apache-2.0"
    files: dict[str, str] = field(default_factory=dict)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of the folder that a loader reads."""
    names = sorted(path.name for path in folder.iterdir() if path.name.endswith(_LOADED))
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def write_card(folder: Path, card: Card) -> None:
    """Write card.json and README.md for the files that lie in the folder now."""
    data = asdict(card) | {"files": digests(folder)}
    (folder / CARD).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_readme(data), encoding="utf-8")


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a folder. Raises ``WeightsRefused`` where there is none or it cannot be read."""
    path = folder / CARD
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise WeightsRefused(f"cannot read the model card {path}: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("files"), dict) or not data["files"]:
        raise WeightsRefused(f"the model card {path} names no files")
    return data


def verify(folder: Path) -> dict[str, Any]:
    """The folder's card, once every file it names has its digest and no other weights lie beside them.

    Raises ``WeightsRefused`` otherwise. Call it before loading weights from the folder.
    """
    card = read_card(folder)
    for name in card["files"]:
        if Path(name).name != name:
            raise WeightsRefused(f"the model card names a file outside its folder: {name!r}")
        if not (folder / name).is_file():
            raise WeightsRefused(f"{folder / name} is missing, but the model card names it")
    for name, found in digests(folder).items():
        wanted = card["files"].get(name)
        if wanted is None:
            raise WeightsRefused(f"{folder / name} is not named by the model card")
        if wanted != found:
            raise WeightsRefused(f"{folder / name} has SHA-256 {found[:12]}..., the model card says {wanted[:12]}...")
    return card


def _readme(card: dict[str, Any]) -> str:
    lines = [
        "---", f"license: {card['licence'].lower()}", "library_name: transformers", "---", "",
        f"# {card['name']}", "", card["task"], "",
        "| | |", "|---|---|",
        f"| data | {card['data']} |",
        f"| steps, samples | {card['steps']:,}, {card['samples']:,} |",
        f"| training time | {card['seconds'] / 60:.0f} minutes |",
        f"| hardware | {card['hardware']} |",
        f"| seed | {card['seed']} |",
        f"| libraries | {', '.join(f'{k} {v}' for k, v in card['libraries'].items())} |",
        f"| licence | {card['licence']} |", "",
        "## Figures", "", card["evaluated"], "",
        "| what | value | 95 % interval | queries | target |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for name, figure in card["figures"].items():
        target = "" if figure.get("target") is None else f">= {figure['target']:.3f}"
        if target:
            target += " (met)" if figure["value"] >= figure["target"] else " (missed)"
        interval = f"{figure['low']:.3f}-{figure['high']:.3f}"
        lines.append(f"| {name} | {figure['value']:.3f} | {interval} | {figure['n']} | {target} |")
    lines += ["", "## Limits", "", *(f"- {limit}" for limit in card["limits"]), "", "## Files", ""]
    lines += [f"- `{name}` sha256 `{digest}`" for name, digest in card["files"].items()]
    return "\n".join(lines) + "\n"
