"""What can go wrong with one item. The class name is what `failed_items.error_class` shows."""

# The names say what is the case ("too many pixels"), as in the rest of the project.
from __future__ import annotations

from typing import ClassVar


class ItemError(Exception):
    """Root. The message names the item and is fit to show to a user; `retryable` ones are tried again later."""

    retryable: ClassVar[bool] = False

    @property
    def error_class(self) -> str:
        """The short name under which the failure is stored."""
        return type(self).__name__


class UnsupportedSource(ItemError):
    """A URI of a scheme that is not read, or one that cannot be a path or a link."""


class OutsideMediaRoots(ItemError):
    """A file that lies, once links are followed, under none of the media roots, or an object in none of the buckets."""


class ForbiddenAddress(ItemError):
    """A link to a host whose addresses are private, and that is not among the allowed ones."""


class NotFound(ItemError):
    """There is no such file, object, page or host."""


class LinkExpired(ItemError):
    """A signed link whose time is over."""


class PermissionDenied(ItemError):
    """The worker may not read the file, object or link."""


class SourceRefused(ItemError):
    """A link that gives no content: an answer in the 400s, a redirect too many, a bad certificate, packed content."""


class NotARegularFile(ItemError):
    """A folder, pipe, socket or device."""


class TooManyBytes(ItemError):
    """The encoded image is larger than `max_bytes`."""


class TooManyPixels(ItemError):
    """The decoded image would be larger than `max_pixels`."""


class TextTooLong(ItemError):
    """The text is longer than `max_text_chars`."""


class EmptyFile(ItemError):
    """The file has no bytes."""


class NotAnImage(ItemError):
    """The content is none of the admitted image formats."""


class TruncatedImage(ItemError):
    """The content begins like an image and ends too early."""


class BrokenImage(ItemError):
    """The content is an image that cannot be decoded."""


class DecompressionBomb(ItemError):
    """Something packed inside the file unpacks to far more than any image needs."""


class DecodeTimeout(ItemError):
    """Decoding took more computing time than any honest image needs."""


class OutOfMemory(ItemError):
    """Memory ran out over this one item."""


class InvalidInput(ItemError):
    """The model cannot take this item."""


class BadVector(ItemError):
    """The model gave a vector that is zero or not finite."""


class EncodeFailed(ItemError):
    """The forward failed for this item alone."""


class CaptionFailed(ItemError):
    """No caption could be written for this image.

    Args:
        message: names the image.
        error_class: of the model's own error, such as `Lacking`.
    """

    def __init__(self, message: str, error_class: str = "CaptionFailed") -> None:
        super().__init__(message)
        self._error_class = error_class

    @property
    def error_class(self) -> str:
        """That of the model's own error."""
        return self._error_class


class CaptionPutOff(CaptionFailed):
    """The same for a reason that may pass: an endpoint that is busy or away."""

    retryable = True


class UnsupportedModality(ItemError):
    """The space does not take items of this modality."""


class NoSuchItem(ItemError):
    """There is no item of this id."""


class NotEncoded(ItemError):
    """The item has no vector of its present content in the space."""


class NotCalibrated(ItemError):
    """A threshold for scores that nobody has calibrated on this collection."""


class ScorerRefused(ItemError):
    """This worker does not serve the scorer."""


class SourceUnavailable(ItemError):
    """Reading failed in a way that may pass: an I/O error, a stale mount, a timeout."""

    retryable = True


class Stalled(ItemError):
    """Reading or decoding did not come to an end within `item_seconds`: a share that went away, a source that drips."""

    retryable = True


class EngineUnavailable(ItemError):
    """The engine stopped or broke down while it held the item."""

    retryable = True
