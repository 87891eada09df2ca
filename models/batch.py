"""Inputs on the device, ready for one forward; and the way there, which the next batch goes while a forward runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from models.protocols import Modality


@dataclass(frozen=True, slots=True)
class Batch:
    """What `Encoder.forward` takes.

    Args:
        what: the modality of all inputs.
        n: how many they are.
        tensors: by the argument names of the network, on its device.
        copied: the copies to a CUDA device end here; None elsewhere, where they have ended.
    """

    what: Modality
    n: int
    tensors: Mapping[str, torch.Tensor]
    copied: torch.cuda.Event | None = None


class Loader:
    """Brings batches to a device. Safe in threads.

    To a CUDA device they go in a stream of their own: copy and normalisation of the next batch run beside the forward
    of this one, and nobody waits for them but the forward that needs them, on the device.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def load(self, what: Modality, n: int, make: Callable[[], Mapping[str, torch.Tensor]]) -> Batch:
        """A batch of `n` inputs from what `make` puts on the device."""
        with torch.inference_mode(), torch.cuda.stream(self._stream) if self._stream else nullcontext():
            tensors = make()
            copied = self._stream.record_event() if self._stream else None
        return Batch(what, n, tensors, copied)

    def arrived(self, batch: Batch) -> Mapping[str, torch.Tensor]:
        """The tensors of a batch, for use in the caller's stream."""
        if batch.copied is not None:
            here = torch.cuda.current_stream()
            here.wait_event(batch.copied)
            for tensor in batch.tensors.values():
                if tensor.is_cuda:
                    tensor.record_stream(here)  # else its memory may go to the next batch before it was read
        return batch.tensors


def host_empty(shape: tuple[int, ...], device: torch.device) -> tuple[torch.Tensor, np.ndarray]:
    """Room for bytes on their way to a device, as a tensor and as the array that is its memory.

    For CUDA it is pinned: only from there a copy runs beside everything else. Torch keeps such memory for the next
    batch, and hands none out again whose copy has not ended.
    """
    tensor = torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
    return tensor, tensor.numpy()
