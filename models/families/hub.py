"""Checkpoints as transformers saves them: their configuration, image rules and weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from models.errors import BrokenCheckpoint
from models.families.family import Network
from models.files import Checkpoint, first_line, read_json
from models.image_config import read_image_config
from models.preprocess import ImagePipeline

if TYPE_CHECKING:
    import torch

_UNUSED = ("logit_scale", "logit_bias", "embeddings.mask_token")  # of training; no vector depends on them


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


def image_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """The image processor's settings: nested in processor_config.json (transformers 5) or in a file of their own.

    Raises:
        BrokenCheckpoint: neither is there.
    """
    nested = checkpoint.folder / "processor_config.json"
    if nested.is_file():
        found = read_json(nested, checkpoint.model).get("image_processor")
        if isinstance(found, dict):
            return found
    return read_json(checkpoint.folder / "preprocessor_config.json", checkpoint.model)


def fixed_images(processor: str) -> Callable[[Checkpoint, Any], ImagePipeline]:
    """Image rules of a tower that takes one size only.

    Args:
        processor: the image processor of a checkpoint that names none, see `models.image_config`.
    """

    def image(checkpoint: Checkpoint, config: Any) -> ImagePipeline:
        found = any_images(processor)(checkpoint, config)
        size = config.vision_config.image_size
        takes = (size, size) if isinstance(size, int) else tuple(size)
        if found.output != takes:
            raise BrokenCheckpoint(
                f"the image processor of {checkpoint.model} gives {found.output or 'images of varying size'}, but its "
                f"vision tower takes {takes}; correct preprocessor_config.json or config.json"
            )
        return found

    return image


def any_images(processor: str) -> Callable[[Checkpoint, Any], ImagePipeline]:
    """Image rules of a tower that takes images of any size, as long as all of them have it."""

    def image(checkpoint: Checkpoint, _: Any) -> ImagePipeline:
        found = read_image_config(image_settings(checkpoint), processor)
        if found.output is None and found.patches is None:
            raise BrokenCheckpoint(
                f"the image processor of {checkpoint.model} gives images of varying size, which make no batch; set "
                f"do_center_crop or a height and a width in preprocessor_config.json"
            )
        return found

    return image


def projection_dim(_: Checkpoint, config: Any) -> int:
    """Dimension of a model that projects both towers to `projection_dim`."""
    return int(config.projection_dim)


def load_dual(architecture: str) -> Callable[[Checkpoint, Any, torch.device, torch.dtype], Network]:
    """Weights of a model of transformers that has `get_image_features` and `get_text_features`."""

    def load(checkpoint: Checkpoint, _: Any, device: torch.device, dtype: torch.dtype) -> Network:
        module = load_module(checkpoint, architecture, device, dtype)
        return Network(
            module,
            lambda **batch: pooled(module.get_image_features(**batch)),
            lambda **batch: pooled(module.get_text_features(**batch)),
        )

    return load


def load_features(architecture: str) -> Callable[[Checkpoint, Any, torch.device, torch.dtype], Network]:
    """Weights of a model of transformers whose `pooler_output` is the vector of an image."""

    def load(checkpoint: Checkpoint, _: Any, device: torch.device, dtype: torch.dtype) -> Network:
        module = load_module(checkpoint, architecture, device, dtype)
        return Network(module, lambda **batch: pooled(module(**batch)).flatten(1), None)

    return load


def load_module(
    checkpoint: Checkpoint, architecture: str, device: torch.device, dtype: torch.dtype, **given: Any
) -> Any:
    """A module of transformers with the checkpoint's weights, ready for inference.

    Args:
        checkpoint: where the weights are, unless `given` holds a `state_dict` and a `config` of their own.
        architecture: name of the class.
        device, dtype: where it goes and in which number format.
        given: more arguments of `from_pretrained`.

    Raises:
        BrokenCheckpoint: weights that cannot be read, or that are missing.
    """
    import transformers
    from safetensors import SafetensorError

    name = checkpoint.model
    try:
        with _no_progress_bar():
            module, report = getattr(transformers, architecture).from_pretrained(
                None if "state_dict" in given else checkpoint.folder,
                dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True, **given,
            )  # fmt: skip
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise BrokenCheckpoint(f"the weights of {name} cannot be loaded: {first_line(error)}") from error
    # transformers fills what is missing with random numbers and goes on
    missing = sorted(key for key in report["missing_keys"] if not key.endswith(_UNUSED))
    if missing:
        raise BrokenCheckpoint(
            f"{name} lacks {len(missing)} weights that its config.json calls for, such as {missing[0]}; "
            f"fetch or convert it again"
        )
    module = module.eval().requires_grad_(False).to(device)
    for weight in (*module.parameters(), *module.buffers()):
        if weight.device.type == "cpu":
            # A map of the file until here: who overwrites it would change the vectors of a running worker, or kill it.
            weight.data = weight.data.clone()
    return module


def pooled(output: Any) -> torch.Tensor:
    """The vectors in what a model of transformers returns; some versions return the tensor itself."""
    return output.pooler_output if hasattr(output, "pooler_output") else output


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """transformers draws one bar for each load, also into the logs of a worker."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
