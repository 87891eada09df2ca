"""What the models package answers, asked as a process: torch stays out of this one."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sightline.errors import PolicyRefused, ServiceMissing


def read_passport(model: str, revision: str | None = None) -> dict[str, Any]:
    """The passport of a model's embedding space, see `models.passport`.

    Raises:
        ServiceMissing: the model cannot be loaded, or the package is not installed; the message says what to do.
        PolicyRefused: loading it would run code of the checkpoint's.
    """
    return _ask(["passport", "--model", model, *_at(revision)], lambda _: None)


def read_machine() -> dict[str, Any]:
    """What this machine offers to models, see `models.machine`; `devices` are its GPUs. Raises as `read_passport`."""
    return _ask(["machine"], lambda _: None)


def convert_checkpoint(
    checkpoint: str, out: Path, revision: str | None = None, on_progress: Callable[[str, float], None] | None = None
) -> dict[str, Any]:
    """Turn a checkpoint of pickles into a folder of safetensors with its passport, see `models.convert`.

    Args:
        checkpoint: a folder, a file of weights with its configuration beside it, or a Hugging Face id.
        out: the folder to make.
        revision: of the Hugging Face repository.
        on_progress: called with what is being done and the share of it that is done.

    Returns:
        folder, passport, tensors (how many of each number format), bytes, skipped (entries that are no weights) and
        unchanged (whether the folder held the same before).

    Raises:
        ServiceMissing, PolicyRefused: as `read_passport`.
    """

    return _ask(["convert", *_at(revision), "--", checkpoint, str(out)], _telling(on_progress))


def evaluate_scenes(
    seed: int = 0, count: int = 1000, on_progress: Callable[[str, float], None] | None = None
) -> dict[str, Any]:
    """Measure the bundled models on rendered scenes that nobody trained on, see `models.scenes.yardstick`.

    Args:
        seed: 0 to 999; each has scenes of its own.
        count: how many scenes.
        on_progress: called with what is being done and the share of it that is done.

    Returns:
        where (which scenes), figures (by name: value, low, high, n, target), absent (models that are not there) and
        missed (names of targets).

    Raises:
        ServiceMissing, PolicyRefused: as `read_passport`.
    """
    return _ask(["eval-scenes", "--seed", str(seed), "--count", str(count)], _telling(on_progress))


def evaluate_captions(
    seed: int = 0, seeds: int = 3, count: int = 300, on_progress: Callable[[str, float], None] | None = None
) -> dict[str, Any]:
    """Measure what recipes write of rendered scenes that nobody trained on, see `models.scenes.evaluate_captions`.

    Args:
        seed: the first; 0 to 999, each has scenes of its own.
        seeds: how many.
        count: scenes of each.
        on_progress: called with what is being done and the share of it that is done.

    Returns:
        where (which scenes), rows (by arm: figures, differs from plain, gain, failed), absent (arms that cannot be run
        here, and why) and missed (what should not be).

    Raises:
        ServiceMissing, PolicyRefused: as `read_passport`.
    """
    from sightline.caption_arms import caption_arms

    arms = json.dumps(caption_arms())
    asked = ["--seed", str(seed), "--seeds", str(seeds), "--count", str(count)]
    return _ask(["eval-captions", "--arms", arms, *asked], _telling(on_progress))


def evaluate_retrieval(
    seed: int = 0, count: int = 200, seeds: int = 3, on_progress: Callable[[str, float], None] | None = None
) -> dict[str, Any]:
    """Measure reranking and composed queries on rendered scenes, see `models.scenes.retrieval`.

    Args:
        seed: the first of the seeds.
        count: scenes of each seed.
        seeds: how many.
        on_progress: called with what is being done and the share of it that is done.

    Returns:
        As `evaluate_scenes`.

    Raises:
        ServiceMissing, PolicyRefused: as `read_passport`.
    """
    arguments = ["eval-retrieval", "--seed", str(seed), "--count", str(count), "--seeds", str(seeds)]
    return _ask(arguments, _telling(on_progress))


def _telling(on_progress: Callable[[str, float], None] | None) -> Callable[[dict[str, Any]], None]:
    """Passes the lines of progress on."""

    def told(line: dict[str, Any]) -> None:
        if on_progress is not None and "doing" in line:
            on_progress(line["doing"], line["share"])

    return told


def _at(revision: str | None) -> list[str]:
    return [] if revision is None else ["--revision", revision]


def _ask(arguments: list[str], on_line: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Run `python -m models`; each line it prints is a JSON object, the last one its answer."""
    if importlib.util.find_spec("models") is None or importlib.util.find_spec("torch") is None:
        raise ServiceMissing(
            "models run from a checkout (pip install -e '.[worker]') or from the image, not from the wheel"
        )
    answer: dict[str, Any] = {}
    complaints: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-m", "models", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    ) as process:
        assert process.stdout is not None and process.stderr is not None  # noqa: PT018 - both are pipes
        reader = threading.Thread(target=lambda lines=process.stderr: complaints.extend(lines), daemon=True)
        reader.start()
        for line in process.stdout:
            answer = json.loads(line)
            on_line(answer)
        reader.join()
    if process.returncode != 0:
        said = [line.strip() for line in complaints if line.strip()]
        reason = (
            said[-1].removeprefix("models: ") if said else f"python -m models ended with exit code {process.returncode}"
        )
        raise (PolicyRefused if process.returncode == PolicyRefused.exit_code else ServiceMissing)(reason)
    return answer
