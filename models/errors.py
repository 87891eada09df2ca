"""What can go wrong with a model: one small tree, each message says what was wrong and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class ModelError(Exception):
    """Root of all errors raised by `models`. The message is one line, fit to show to a user."""


class ModelNotFound(ModelError):
    """No such folder, hub repository or revision, or the hub cannot be reached and nothing is cached."""


class UnsupportedModel(ModelError):
    """The checkpoint is sound, but of a kind that `models` cannot encode with."""


class UnsafeCheckpoint(ModelError):
    """Loading would run code from the checkpoint (pickles, remote code), or its weights are not the published ones."""


class BrokenCheckpoint(ModelError):
    """Files are missing or contradict each other, so that vectors would be wrong or absent."""


class MissingLibrary(ModelError):
    """The checkpoint needs a Python library that is not installed."""


class DeviceUnavailable(ModelError):
    """The device or number format asked for is not there."""


class CannotWrite(ModelError):
    """A converted model cannot be put where it was asked for."""


class InvalidInput(ModelError):
    """One image or text cannot be encoded, whatever the model. Nothing is wrong with its neighbours."""


class NoTextTower(ModelError):
    """A text for a model that encodes images only.

    Args:
        model: its public id.
    """

    def __init__(self, model: str) -> None:
        super().__init__(
            f"{model} encodes images only: search with an image, or in the space of a model that takes text"
        )


class NonFinite(ModelError):
    """A forward gave NaN or infinity.

    Args:
        indices: positions in the batch whose results are not finite.
        what: what they are, "image vectors" or "scores".
        dtype: the number format of the forward, named because a wider one often helps.
    """

    def __init__(self, indices: Sequence[int], what: str, dtype: str) -> None:
        self.indices = tuple(indices)
        shown = ", ".join(map(str, self.indices[:8])) + (", ..." if len(self.indices) > 8 else "")
        super().__init__(
            f"{what} at index {shown} of the batch hold NaN or infinity (computed in {dtype}); "
            f"try them alone, and load the model with dtype float32 if it happens again"
        )


class NonFiniteVectors(NonFinite):
    """A vector holds NaN or infinity.

    Args:
        indices: positions in the batch.
        what: "image" or "text".
        dtype: the number format of the forward.
    """

    def __init__(self, indices: Sequence[int], what: str, dtype: str) -> None:
        super().__init__(indices, f"{what} vectors", dtype)


class EndpointError(ModelError):
    """A model behind an HTTP endpoint gave no usable answer for one input; other inputs may well have theirs.

    Args:
        message: what was wrong and what to do; never holds the key.
        retry_after: seconds after which the endpoint asked to be tried again.
    """

    retryable: ClassVar[bool] = False

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EndpointUnreachable(EndpointError):
    """No connection, or one that broke."""

    retryable = True


class EndpointTimeout(EndpointError):
    """No whole answer in time."""

    retryable = True


class EndpointBusy(EndpointError):
    """Too many requests, or the server failed."""

    retryable = True


class EndpointUnauthorised(EndpointError):
    """The key is missing, wrong, or may not use the model."""


class EndpointRefused(EndpointError):
    """The endpoint does not take the request: no such model or path, a text too long, no images."""


class AnswerRefused(EndpointError):
    """The model declined to answer, or a content filter stopped it."""


class AnswerEmpty(EndpointError):
    """The answer holds no text."""


class AnswerMalformed(EndpointError):
    """The answer is not what was asked for: no JSON, or other fields."""


class AnswerTruncated(EndpointError):
    """The answer ended at the limit of tokens, in the middle of what was asked for."""


class AnswerTooLong(EndpointError):
    """The answer is larger than any caption is."""
