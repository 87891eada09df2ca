"""Checkpoints in BLIP format (Li et al. 2022, arXiv 2201.12086): captioners and matchers over one vision tower.

One checkpoint may hold both, as the bundled one does, which has a detector beside them: each loader takes its parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models.checkpoint import CAPTIONER_ID, open_checkpoint
from models.errors import BrokenCheckpoint
from models.families.hub import fixed_images, load_config, load_module
from models.files import Checkpoint, first_line
from models.passport import library_versions
from models.preprocess import ImagePipeline
from models.protocols import Identity

if TYPE_CHECKING:
    import torch

KIND = "blip"


@dataclass(frozen=True, slots=True)
class BlipCheckpoint:
    """A checkpoint that was opened and found to fit together, before any weight is on a device."""

    checkpoint: Checkpoint
    config: Any
    image: ImagePipeline

    @property
    def context_length(self) -> int:
        """Tokens of the longest text that is not cut."""
        return int(self.config.text_config.max_position_embeddings)

    def load(self, architecture: str, parts: tuple[str, ...], device: torch.device, dtype: torch.dtype) -> Any:
        """A class of transformers with those weights whose names begin with one of ``parts``.

        Raises:
            BrokenCheckpoint: weights that cannot be read, or that are missing.
        """
        state = self.weights(parts)
        config = self.config
        if architecture == "BlipVisionModel":
            config = config.vision_config
            state = {name.removeprefix("vision_model."): value for name, value in state.items()}
        return load_module(self.checkpoint, architecture, device, dtype, state_dict=state, config=config)

    def weights(self, parts: tuple[str, ...]) -> dict[str, torch.Tensor]:
        """The weights whose names begin with one of ``parts``, on the CPU. Raises BrokenCheckpoint."""
        from safetensors import SafetensorError, safe_open

        found = {}
        try:
            for path in self.checkpoint.weights:
                with safe_open(path, "pt") as file:
                    names = [name for name in file.keys() if name.startswith(parts)]  # noqa: SIM118
                    found.update({name: file.get_tensor(name) for name in names})
        except (OSError, SafetensorError) as error:
            raise BrokenCheckpoint(
                f"the weights of {self.checkpoint.model} cannot be read: {first_line(error)}"
            ) from error
        return found

    def identity(self, tokenizer: str | None, dtype: str) -> Identity:
        """Who made a result: this checkpoint. Reads the weights once, for their digest."""
        checkpoint = self.checkpoint
        return Identity(
            model=checkpoint.model,
            revision=checkpoint.revision,
            kind=KIND,
            weights=checkpoint.weights_digest(),
            tokenizer=tokenizer,
            preprocessing=self.image.digest,
            dtype=dtype,
            source=checkpoint.source,
            libraries=library_versions(),
        )


def open_blip(model: str, revision: str | None = None) -> BlipCheckpoint:
    """Find, fetch and check a BLIP checkpoint without loading its weights.

    Args:
        model: a hub id ("Salesforce/blip-image-captioning-base"), a folder, or "bundled".
        revision: branch, tag or commit of a hub repository.

    Raises:
        ModelError: one of the tree in `models.errors`, with what to do about it.
    """
    checkpoint = open_checkpoint(model, revision, bundled=CAPTIONER_ID, kinds=(KIND,))
    config = load_config(checkpoint)
    return BlipCheckpoint(checkpoint, config, fixed_images("Blip")(checkpoint, config))
