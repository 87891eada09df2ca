"""Prepared images to a batch on the device, normalised there: uint8 travels, a quarter of the floats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from models.batch import host_empty
from models.errors import InvalidInput
from models.preprocess import ImagePipeline


class PixelBatch:
    """Makes batches of what `ImagePipeline.apply` returns.

    Args:
        pipeline: where the images come from.
        device, dtype: of the batches.
    """

    def __init__(self, pipeline: ImagePipeline, device: torch.device, dtype: torch.dtype) -> None:
        self._output, self._patches = pipeline.output, pipeline.patches
        self._device, self._dtype = device, dtype
        # (pixel * scale - mean) / std as one multiplication and one subtraction
        std = torch.tensor(pipeline.std, device=device)
        self._factor = pipeline.scale / std
        self._shift = torch.tensor(pipeline.mean, device=device) / std

    def __call__(self, images: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """A batch by the argument names of transformers.

        Returns:
            "pixel_values" (n, 3, height, width); or, in patches, (n, length, 3 side²) filled to the longest, with
            "pixel_attention_mask" (n, length) and "spatial_shapes" (n, 2), rows and columns.

        Raises:
            InvalidInput: an image of another shape or type than the pipeline gives.
        """
        for index, image in enumerate(images):
            self._check(index, image)
        if self._patches is None:
            host, squares = host_empty((len(images), *images[0].shape), self._device)
            np.stack(images, out=squares)
            return {"pixel_values": self._normalised(host).permute(0, 3, 1, 2).to(self._dtype)}
        return self._patched(images, self._patches[0])

    def _patched(self, images: Sequence[np.ndarray], side: int) -> dict[str, torch.Tensor]:
        shapes = [(image.shape[0] // side, image.shape[1] // side) for image in images]
        length = max(rows * columns for rows, columns in shapes)
        host, cut = host_empty((len(images), length, side * side, 3), self._device)
        cut[:] = 0
        mask = np.zeros((len(images), length), np.int64)
        for row, (image, (rows, columns)) in enumerate(zip(images, shapes, strict=True)):
            squares = image.reshape(rows, side, columns, side, 3).swapaxes(1, 2)
            cut[row, : rows * columns] = squares.reshape(rows * columns, side * side, 3)
            mask[row, : rows * columns] = 1
        pixels = self._normalised(host).flatten(2)
        return {
            "pixel_values": pixels.to(self._dtype),
            "pixel_attention_mask": torch.from_numpy(mask).to(self._device),
            "spatial_shapes": torch.tensor(shapes),
        }

    def _normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """Bytes on the host, channels last, to floats on the device."""
        return pixels.to(self._device, non_blocking=True).float().mul_(self._factor).sub_(self._shift)

    def _check(self, index: int, image: np.ndarray) -> None:
        if self._patches is None:
            expected = f"{(*(self._output or ()), 3)}"
            fits = image.shape == (*(self._output or ()), 3)
        else:
            side, most = self._patches
            expected = f"(height, width, 3) in at most {most} whole patches of {side} pixels"
            fits = image.ndim == 3 and image.shape[2] == 3 and not image.shape[0] % side and not image.shape[1] % side
            fits = fits and 0 < image.shape[0] * image.shape[1] <= most * side * side
        if not fits or image.dtype != np.uint8:
            raise InvalidInput(
                f"image {index} of the batch is {image.dtype} {image.shape}, expected uint8 {expected}; "
                f"pass what prepare_image returns"
            )
