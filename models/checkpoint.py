"""From a model's name to a folder of files that are safe to load: hub ids, folders, and the bundled model.

Only configuration, tokenizer and safetensors files are ever fetched or read. Pickles are refused, and so is a
checkpoint that asks for Python code of its own, since ignoring that code would give other vectors than it promises.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import BrokenCheckpoint, ModelNotFound, UnsafeCheckpoint, UnsupportedModel
from models.scenes.card import CARD, WeightsRefused, verify

BUNDLED_ID = "sightline/scenes-dual-encoder"
"""The public name of the bundled dual encoder, in passports and in the space table."""
SUPPORTED = ("clip", "siglip")
"""Values of `model_type` in config.json that `load_encoder` takes. Fixed-resolution SigLIP2 calls itself siglip."""

_BUNDLED_NAMES = {"bundled", "scenes", BUNDLED_ID}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_FETCHED = ["*.json", "*.txt", "*.model", _WEIGHTS, "model-*.safetensors"]
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_CONVERT = (
    "convert it once on a machine you trust (transformers: AutoModel.from_pretrained(...).save_pretrained(...)), "
    "or pass the revision of a safetensors conversion, such as refs/pr/3"
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One checkpoint on this disk, checked to hold safetensors of a supported type and no code.

    Args:
        model: public id: the hub id, the folder's name, or `BUNDLED_ID`.
        revision: commit of the hub repository; None for folders.
        source: where it came from, for people: "hub", "bundled" or the folder's path. Not part of any identity.
        folder: the files.
        kind: one of `SUPPORTED`.
        weights: the safetensors files, sorted by name.
    """

    model: str
    revision: str | None
    source: str
    folder: Path
    kind: str
    weights: tuple[Path, ...]

    def weights_digest(self) -> str:
        """sha256 of the weights; one file gives what `sha256sum` prints, shards the sha256 of their `sha256sum` lines.

        Reads all of the weights (about a second per gigabyte), so call it once per load.
        """
        digests = [(_sha256(path), path.name) for path in self.weights]
        if len(digests) == 1:
            return digests[0][0]
        return hashlib.sha256("".join(f"{digest}  {name}\n" for digest, name in digests).encode()).hexdigest()


def bundled_model() -> Path:
    """The folder of the bundled dual encoder, trained on rendered scenes."""
    return Path(__file__).parent / "weights" / "scenes-dual-encoder"


def open_checkpoint(model: str, revision: str | None = None) -> Checkpoint:
    """Find a model, fetch it if it lives on the hub, and check that it can be loaded safely.

    Args:
        model: a hub id ("openai/clip-vit-large-patch14"), a folder, or "bundled" (also "scenes" and `BUNDLED_ID`; a
            folder of one of these names is reached as "./scenes").
        revision: branch, tag or commit of a hub repository.

    Raises:
        ModelNotFound, UnsupportedModel, UnsafeCheckpoint, BrokenCheckpoint: see `models.errors`.
    """
    if model in _BUNDLED_NAMES:
        name, source, folder, commit = BUNDLED_ID, "bundled", bundled_model(), None
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
        name, source, (folder, commit) = model, "hub", _fetch(model, revision)
    kind = _check_type(_read_json(folder / "config.json", name), name)
    _check_code(folder, name)
    weights = _weight_files(folder, name)
    _check_card(folder, name)
    return Checkpoint(name, commit, source, folder, kind, weights)


def _fetch(model: str, revision: str | None) -> tuple[Path, str | None]:
    """Bring a hub repository's safe files into the Hugging Face cache; the folder and the commit it is at."""
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
        folder = Path(snapshot_download(model, revision=revision, allow_patterns=_FETCHED, ignore_patterns=["*/*"]))
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


def _check_type(config: dict[str, Any], name: str) -> str:
    kind = config.get("model_type")
    if kind in SUPPORTED:
        return str(kind)
    hint = ""
    if kind == "siglip2":
        hint = "; this is a variable-resolution (NaFlex) SigLIP2, the fixed-resolution ones are of type siglip"
    elif kind in {"clip_text_model", "clip_vision_model", "siglip_text_model", "siglip_vision_model"}:
        hint = "; it holds one of the two towers, both are needed"
    raise UnsupportedModel(f"{name} is of type {kind!r}; supported types are {', '.join(SUPPORTED)}{hint}")


def _check_code(folder: Path, name: str) -> None:
    for file in ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
        if (folder / file).is_file() and "auto_map" in _read_json(folder / file, name):
            raise UnsafeCheckpoint(
                f"{name} asks for Python code of its own (auto_map in {file}), which is never run; use a checkpoint "
                f"that transformers loads without trust_remote_code"
            )
    if (folder / "adapter_config.json").is_file():
        raise UnsupportedModel(f"{name} holds an adapter; merge it into its base model (peft: merge_and_unload) first")


def _weight_files(folder: Path, name: str) -> tuple[Path, ...]:
    if (folder / _WEIGHTS).is_file():
        return (folder / _WEIGHTS,)
    if (folder / _INDEX).is_file():
        shards = sorted(set(_read_json(folder / _INDEX, name).get("weight_map", {}).values()))
        foreign = [shard for shard in shards if Path(shard).name != shard or Path(shard).suffix != ".safetensors"]
        if foreign:
            raise UnsafeCheckpoint(f"{name}: {_INDEX} names {foreign}; expected safetensors files beside it")
        missing = [shard for shard in shards if not (folder / shard).is_file()]
        if missing or not shards:
            raise BrokenCheckpoint(f"{name}: {_INDEX} names {missing or 'no'} files that are not there; fetch it again")
        return tuple(folder / shard for shard in shards)
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise UnsafeCheckpoint(
            f"{name} has only pickled weights ({', '.join(pickles)}), which run code when opened; {_CONVERT}"
        )
    raise UnsafeCheckpoint(f"{name} has no {_WEIGHTS}; if it has only pickled weights, {_CONVERT}")


def _check_card(folder: Path, name: str) -> None:
    """Files that come with a card of digests must be the ones it names; the bundled model has one always."""
    card = folder / CARD
    listed = _read_json(card, name).get("files") if card.is_file() else None
    digested = isinstance(listed, dict) and listed and all(_DIGEST.fullmatch(str(value)) for value in listed.values())
    if not digested and name != BUNDLED_ID:
        return  # no card, or one of somebody else's making
    try:
        verify(folder)
    except WeightsRefused as error:
        raise UnsafeCheckpoint(
            f"{name} is not what its model card describes, fetch or train it again: {error}"
        ) from error


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BrokenCheckpoint(f"{name} has no {path.name}; expected a folder saved by transformers") from error
    except (OSError, ValueError) as error:
        raise BrokenCheckpoint(f"{path.name} of {name} cannot be read: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise BrokenCheckpoint(f"{path.name} of {name} is not a JSON object")
    return content


def load_config(checkpoint: Checkpoint) -> Any:
    """The checkpoint's configuration as transformers completes it: towers, sizes, special tokens.

    Raises:
        BrokenCheckpoint: transformers cannot make sense of config.json.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as error:
        raise BrokenCheckpoint(f"config.json of {checkpoint.model} cannot be used: {first_line(error)}") from error


def read_image_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The image processor's settings: nested in processor_config.json (transformers 5) or in a file of their own.

    Raises:
        BrokenCheckpoint: neither is there.
    """
    nested = checkpoint.folder / "processor_config.json"
    if nested.is_file():
        found = _read_json(nested, checkpoint.model).get("image_processor")
        if isinstance(found, dict):
            return found
    return _read_json(checkpoint.folder / "preprocessor_config.json", checkpoint.model)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_line(error: BaseException) -> str:
    """The first line of an error's message, for a message of ours that has to stay on one line."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
