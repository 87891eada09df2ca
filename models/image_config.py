"""From the `preprocessor_config.json` of a checkpoint to an image pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.errors import BrokenCheckpoint, UnsupportedModel
from models.preprocess import FILTERS, ImagePipeline

_CLIP = {
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "resample": 3,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_SIGLIP = {
    "size": {"height": 224, "width": 224},
    "do_center_crop": False,
    "resample": 3,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
_BLIP = {**_CLIP, "size": {"height": 384, "width": 384}, "do_center_crop": False}
_COMMON = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "do_pad": False}
_HALVES = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}  # IMAGENET_STANDARD_MEAN of transformers
_CONVNEXT: dict[str, Any] = {
    "size": {"shortest_edge": 384},
    "crop_pct": 224 / 256,
    "do_center_crop": False,
    "resample": 3,
}
_SIGLIP2 = {"patch_size": 16, "max_num_patches": 256, "do_center_crop": False, "resample": 2}
# What each processor class of transformers assumes for a key that its file leaves out.
_DEFAULTS = {
    "CLIP": _CLIP | _COMMON,
    "ChineseCLIP": _CLIP | _COMMON,
    "Bit": _CLIP | _COMMON,
    "Siglip": _SIGLIP | _COMMON,
    "Siglip2": _SIGLIP | _SIGLIP2 | _COMMON,
    "ConvNext": _CONVNEXT | _HALVES | _COMMON,
    "Blip": _BLIP | _COMMON,
}
_WARPED_FROM = 384  # ConvNext's processor crops below this side, and warps from it on
_SQUARED = {"Siglip", "Blip"}  # a size of one number means a square here, the shorter side elsewhere
_ROLES = ("ImageProcessor", "FeatureExtractor")


def read_image_config(config: Mapping[str, Any], processor: str) -> ImagePipeline:
    """Read the content of a `preprocessor_config.json`.

    Args:
        config: the parsed file; keys left out have the defaults of the processor class it names.
        processor: one of `_DEFAULTS`, used where the file names no class.

    Raises:
        UnsupportedModel: a processor class, filter or step that the pipeline does not know.
        BrokenCheckpoint: sizes that cannot be read.
    """
    processor = _named(config) or processor
    known = {**_DEFAULTS[processor], **config}
    if known["do_pad"]:
        raise UnsupportedModel("the image processor pads (do_pad); only resize and centre crop are supported")
    if known["resample"] not in FILTERS:
        raise UnsupportedModel(f"resample is {known['resample']!r}; expected one of Pillow's {FILTERS}")
    edge, exact, crop = _sizes(known, processor)
    return ImagePipeline(
        edge=edge,
        exact=exact,
        crop=crop,
        resample=int(known["resample"]),
        scale=float(known["rescale_factor"]) if known["do_rescale"] else 1.0,
        mean=per_channel(known["image_mean"]) if known["do_normalize"] else (0.0, 0.0, 0.0),
        std=per_channel(known["image_std"]) if known["do_normalize"] else (1.0, 1.0, 1.0),
        patches=(int(known["patch_size"]), int(known["max_num_patches"])) if processor == "Siglip2" else None,
    )


def _sizes(
    known: Mapping[str, Any], processor: str
) -> tuple[int | None, tuple[int, int] | None, tuple[int, int] | None]:
    """What the processor resizes the shorter side to, or the whole image, and what it crops."""
    if processor == "Siglip2":
        if not known["do_resize"]:
            raise UnsupportedModel("the image processor does not resize (do_resize), so images are not whole patches")
        return None, None, None
    if processor == "ConvNext" and known["do_resize"]:
        return _convnext_sizes(known)
    crop = _height_width(known.get("crop_size"), "crop_size") if known["do_center_crop"] else None
    if not known["do_resize"]:
        return None, None, crop
    size = known["size"]
    if isinstance(size, int) and processor not in _SQUARED:
        return size, None, crop
    if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
        return int(size["shortest_edge"]), None, crop
    return None, _height_width(size, "size"), crop


def _convnext_sizes(known: Mapping[str, Any]) -> tuple[int | None, tuple[int, int] | None, tuple[int, int] | None]:
    """Below `_WARPED_FROM` the image is resized to more than its size, by `crop_pct`, and cropped; from there on it is
    warped to a square."""
    size = known["size"]
    if isinstance(size, Mapping):
        size = size.get("shortest_edge")
    if not isinstance(size, int) or known["do_center_crop"]:
        raise UnsupportedModel(
            f"the image processor has size {known['size']!r} and do_center_crop {known['do_center_crop']!r}; expected "
            f"a shortest_edge and no crop but that of crop_pct"
        )
    if size >= _WARPED_FROM:
        return None, (size, size), None
    return int(size / (known["crop_pct"] or _CONVNEXT["crop_pct"])), None, (size, size)


def _named(config: Mapping[str, Any]) -> str | None:
    name = config.get("image_processor_type") or config.get("feature_extractor_type")
    if name is None:
        return None
    for processor in _DEFAULTS:
        if name in {f"{processor}{role}{suffix}" for role in _ROLES for suffix in ("", "Fast", "Pil")}:
            return processor
    known = ", ".join(f"{processor}ImageProcessor" for processor in _DEFAULTS)
    raise UnsupportedModel(f"image processor {name!r} is not supported; expected {known}")


def _height_width(size: object, name: str) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    if isinstance(size, Mapping) and {"height", "width"} <= set(size):
        return int(size["height"]), int(size["width"])
    raise BrokenCheckpoint(f"{name} of the image processor is {size!r}; expected a number or a height and a width")


def per_channel(value: object) -> tuple[float, float, float]:
    """A mean or a standard deviation for each channel. Raises BrokenCheckpoint."""
    if isinstance(value, int | float):
        return float(value), float(value), float(value)
    if isinstance(value, list | tuple) and len(value) == 3:
        return float(value[0]), float(value[1]), float(value[2])
    raise BrokenCheckpoint(f"image_mean and image_std must be one number or three, got {value!r}")
