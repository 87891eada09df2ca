"""The passport of an embedding space: what decides whether two vectors may be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_IDENTITY = (
    "kind", "dim", "weights", "towers", "tokenizer", "context_length", "text_padding", "pooling", "preprocessing",
    "normalisation", "decoding",
)  # fmt: skip
"""Fields that make vectors incomparable. `model` and `revision` only name the weights, whose digest decides: a commit
that edits a README, or a copy in a folder, is the same space. `dtype` is not here either, or a query encoded on a CPU
worker (float32) could not search vectors of a GPU worker (bfloat16), which agree to a cosine above 0.999."""
_NAMES = ("model", "revision")
_LATER = ("towers", "decoding")  # passports that were stored before there was such a field do not say it
_LIBRARIES = ("torch", "transformers", "tokenizers", "sentencepiece", "ftfy", "pillow", "numpy")


@dataclass(frozen=True, slots=True)
class Passport:
    """Stored with each space, computed anew by each worker that loads the model.

    Args:
        model: hub id, folder name, or the public id of the bundled model. Never a path.
        revision: commit of the hub repository; None for folders and the bundled model.
        kind: one of `models.families.FAMILIES`.
        dim: length of the vectors.
        weights: sha256 of the safetensors files, see `Checkpoint.weights_digest`.
        tokenizer: digest of what the tokenizer does, see `TextPipeline.digest`; None without a text tower, as the next.
        context_length: tokens that the text tower takes; longer texts are cut.
        text_padding: how a batch of texts is filled, in words.
        pooling: which positions become the vector, in words.
        preprocessing: digest of `image_pipeline`.
        image_pipeline: sightline's own image rules (resize, crop, filter, antialias, mean, std), for people.
        normalisation: what the encoder does to its vectors: "none"; whoever stores them keeps their norm.
        dtype: number format of the forward. Information.
        source: "hub", "bundled" or the folder's path. Information.
        libraries: versions of the libraries that computed it. Information.
        modalities: what the model encodes, ("image", "text") or ("image",).
        towers: activation, heads and the like, in words; None in passports that were stored before it was there, which
            are not held against it.
        decoding: how files become the pixels that are prepared, in words; None as with `towers`: whole images, whose
            vectors differ less than those of two number formats.
    """

    model: str
    revision: str | None
    kind: str
    dim: int
    weights: str
    tokenizer: str | None
    context_length: int | None
    text_padding: str | None
    pooling: str
    preprocessing: str
    image_pipeline: dict[str, Any]
    normalisation: str
    dtype: str
    source: str
    libraries: dict[str, str]
    modalities: tuple[str, ...] = ("image", "text")
    towers: str | None = None
    decoding: str | None = None

    def differences(self, other: Passport) -> list[str]:
        """The fields for which vectors of the two may not be compared; empty if they may.

        `model` and `revision` are named too, first, when the weights differ: they say why.
        """
        names = [name for name in _IDENTITY if getattr(self, name) != getattr(other, name)]
        names = [
            name for name in names if name not in _LATER or None not in (getattr(self, name), getattr(other, name))
        ]
        if "weights" in names:
            names = [name for name in _NAMES if getattr(self, name) != getattr(other, name)] + names
        return names

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"modalities": list(self.modalities)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Passport:
        """Read a stored passport; keys that a newer version added are ignored.

        Raises:
            ValueError: a field is missing.
        """
        names = [field.name for field in fields(cls)]
        missing = [field.name for field in fields(cls) if field.name not in content and field.default is MISSING]
        if missing:
            raise ValueError(
                f"the passport lacks {', '.join(missing)}; write it again with `python -m models passport`"
            )
        found = {name: content[name] for name in names if name in content}
        if "modalities" in found:
            found["modalities"] = tuple(found["modalities"])
        return cls(**found)


def library_versions() -> dict[str, str]:
    """Versions of the libraries that vectors depend on, as far as they are installed."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
