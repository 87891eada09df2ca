"""From a model's name to a folder of files that are safe to load: hub ids, folders, and the bundled model.

Only configuration, tokenizer and safetensors files are ever fetched or read. Pickles are refused, and so is a
checkpoint that asks for Python code of its own, since ignoring that code would give other vectors than it promises.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from models.errors import BrokenCheckpoint, ModelNotFound, UnsafeCheckpoint, UnsupportedModel
from models.families import FAMILIES, HINTS
from models.families.open_clip import OPEN_CLIP
from models.files import OPEN_CLIP_CONFIG, Checkpoint, first_line, read_json
from models.scenes.card import CARD, WeightsRefused, verify

BUNDLED_ID = "sightline/scenes-dual-encoder"
"""The public name of the bundled dual encoder, in passports and in the space table."""
CAPTIONER_ID = "sightline/scenes-captioner"
"""The public name of the bundled captioner, matcher and detector, which are one checkpoint."""
JUDGE_ID = "sightline/scenes-judge"
"""The public name of the second dual encoder, which evaluations ask."""

_BUNDLED_NAMES = ("bundled", "scenes")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
WEIGHTS, _INDEX, _SHARDS = "model.safetensors", "model.safetensors.index.json", "model-*.safetensors"
OPEN_CLIP_WEIGHTS = "open_clip_model.safetensors"
_SMALL = ["*.json", "*.txt", "*.model"]
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def bundled_model(public_id: str = BUNDLED_ID) -> Path:
    """The folder of a bundled model, trained on rendered scenes."""
    return Path(__file__).parent / "weights" / public_id.rpartition("/")[2]


def open_checkpoint(
    model: str, revision: str | None = None, *, bundled: str = BUNDLED_ID, kinds: Collection[str] = FAMILIES
) -> Checkpoint:
    """Find a model, fetch it if it lives on the hub, and check that it can be loaded safely.

    Args:
        model: a hub id ("openai/clip-vit-large-patch14"), a folder, or "bundled" (also "scenes" and the id in
            `bundled`; a folder of one of these names is reached as "./scenes").
        revision: branch, tag or commit of a hub repository.
        bundled: public id of the bundled model that is meant.
        kinds: values of `model_type` in config.json that the caller can load.

    Raises:
        ModelNotFound, UnsupportedModel, UnsafeCheckpoint, BrokenCheckpoint: see `models.errors`.
    """
    if model in (*_BUNDLED_NAMES, bundled):
        name, source, folder, commit = bundled, "bundled", bundled_model(bundled), None
        if not folder.is_dir():
            raise ModelNotFound(
                f"the bundled model is missing; restore models/weights/{folder.name} from the repository"
            )
    elif Path(model).expanduser().is_dir():
        if revision is not None:
            raise ModelNotFound(f"{model} is a folder and has no revision {revision!r}; leave the revision out")
        folder, commit = Path(model).expanduser().resolve(), None
        name, source = folder.name, str(folder)
    else:
        name, source, (folder, commit) = model, "hub", fetch(model, revision, _SMALL)
    kind = check_folder(folder, name, kinds)
    if source == "hub":
        folder, _ = fetch(model, commit, [OPEN_CLIP_WEIGHTS] if kind == OPEN_CLIP.kind else [WEIGHTS, _SHARDS])
    weights = _weight_files(folder, name, model, OPEN_CLIP_WEIGHTS if kind == OPEN_CLIP.kind else WEIGHTS)
    _check_card(folder, name, always=source == "bundled")
    return Checkpoint(name, commit, source, folder, kind, weights)


def fetch(model: str, revision: str | None, patterns: list[str]) -> tuple[Path, str | None]:
    """Bring files of a hub repository into the Hugging Face cache; the folder and the commit it is at."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if not _HUB_ID.fullmatch(model):
        raise ModelNotFound(f"there is no folder {model!r}, and it is not the id of a hub repository (owner/name)")
    at = f" at revision {revision!r}" if revision else ""
    try:
        folder = Path(snapshot_download(model, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except GatedRepoError as error:
        raise ModelNotFound(
            f"{model} asks for its licence to be accepted: do so on its page, then set HF_TOKEN or run `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelNotFound(f"{model} has no revision {revision!r}; use a branch, tag or commit of it") from error
    except RepositoryNotFoundError as error:
        raise ModelNotFound(
            f"there is no folder and no public hub repository {model!r}; check the spelling, or set HF_TOKEN if it is "
            f"private"
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise ModelNotFound(
            f"{model}{at} is not in the local cache and the hub cannot be reached (or HF_HUB_OFFLINE is set): run "
            f"`hf download {model}` where there is a network and copy the cache (HF_HOME), pass a folder, or use the "
            f"bundled model {BUNDLED_ID}"
        ) from error
    except (HFValidationError, OSError) as error:
        raise ModelNotFound(f"{model}{at} could not be fetched: {first_line(error)}") from error
    return folder, folder.name if _COMMIT.fullmatch(folder.name) else revision


def check_folder(folder: Path, name: str, kinds: Collection[str] = FAMILIES) -> str:
    """The kind of a folder's model, which is served and asks for no code of its own.

    Raises:
        UnsupportedModel, UnsafeCheckpoint, BrokenCheckpoint: see `models.errors`.
    """
    kind = _check_type(folder, name, kinds)
    _check_code(folder, name)
    return kind


def _check_type(folder: Path, name: str, kinds: Collection[str]) -> str:
    """A folder in both formats is taken as transformers saved it."""
    config: dict[str, Any] = {}
    if (folder / "config.json").is_file() or not (folder / OPEN_CLIP_CONFIG).is_file():
        config = read_json(folder / "config.json", name)
    kind = config.get("model_type")
    if kind in kinds:
        return str(kind)
    if (folder / OPEN_CLIP_CONFIG).is_file() and OPEN_CLIP.kind in kinds:
        return OPEN_CLIP.kind
    hint = HINTS.get(kind)
    raise UnsupportedModel(
        f"{name} is of type {kind!r}; supported types are {', '.join(kinds)}" + (f"; {hint}" if hint else "")
    )


def _check_code(folder: Path, name: str) -> None:
    for file in ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
        if (folder / file).is_file() and "auto_map" in read_json(folder / file, name):
            raise UnsafeCheckpoint(
                f"{name} asks for Python code of its own (auto_map in {file}), which is never run; use a checkpoint "
                f"that transformers loads without trust_remote_code"
            )
    if (folder / "adapter_config.json").is_file():
        raise UnsupportedModel(f"{name} holds an adapter; merge it into its base model (peft: merge_and_unload) first")


def _weight_files(folder: Path, name: str, given: str, single: str) -> tuple[Path, ...]:
    if (folder / single).is_file():
        return (folder / single,)
    if single == WEIGHTS and (folder / _INDEX).is_file():
        shards = sorted(set(read_json(folder / _INDEX, name).get("weight_map", {}).values()))
        foreign = [shard for shard in shards if Path(shard).name != shard or Path(shard).suffix != ".safetensors"]
        if foreign:
            raise UnsafeCheckpoint(f"{name}: {_INDEX} names {foreign}; expected safetensors files beside it")
        missing = [shard for shard in shards if not (folder / shard).is_file()]
        if missing or not shards:
            raise BrokenCheckpoint(f"{name}: {_INDEX} names {missing or 'no'} files that are not there; fetch it again")
        return tuple(folder / shard for shard in shards)
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise UnsafeCheckpoint(
            f"{name} has only pickled weights ({', '.join(pickles)}), which run code when opened; convert it once "
            f"(sightline convert {given} FOLDER), which runs nothing of theirs"
        )
    raise UnsafeCheckpoint(
        f"{name} has no {single}; if it has only pickled weights, convert it once (sightline convert {given} FOLDER), "
        f"or pass the revision of a safetensors conversion, such as refs/pr/3"
    )


def _check_card(folder: Path, name: str, *, always: bool) -> None:
    """Files that come with a card of digests must be the ones it names; bundled models always have one."""
    card = folder / CARD
    listed = read_json(card, name).get("files") if card.is_file() else None
    digested = isinstance(listed, dict) and listed and all(_DIGEST.fullmatch(str(value)) for value in listed.values())
    if not digested and not always:
        return  # no card, or one of somebody else's making
    try:
        verify(folder)
    except WeightsRefused as error:
        raise UnsafeCheckpoint(
            f"{name} is not what its model card describes, fetch or train it again: {error}"
        ) from error
