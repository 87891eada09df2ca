"""The arguments of a search, checked before anything is asked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from sightline.errors import UsageError
from sightline.settings import Settings

MAX_K = 10_000


def image_bytes_of(image: str | os.PathLike[str] | bytes, settings: Settings) -> bytes:
    """The bytes of a query image, given as a path or as bytes.

    Raises:
        UsageError: it is no file, cannot be read, or is larger than `settings.max_bytes`.
    """
    if isinstance(image, (bytes, bytearray, memoryview)):
        size, content = len(image), bytes(image)
    elif isinstance(image, (str, os.PathLike)):
        path = Path(image)
        try:
            if not path.is_file():  # a pipe would be waited for
                raise UsageError(f"the image {path} is not a file" if path.exists() else f"there is no image {path}")
            size = path.stat().st_size
            content = path.read_bytes() if size <= settings.max_bytes else b""
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"the image {path} cannot be read: {reason}") from error
    else:
        raise UsageError(f"image must be a path or the bytes of an image file, not a {type(image).__name__}")
    if size > settings.max_bytes:
        raise UsageError(f"the image has {size:,} bytes; SIGHTLINE_MAX_BYTES admits {settings.max_bytes:,}")
    return content


def check_search(text: object, vector: object, k: object, where: object) -> None:
    """Refuse arguments of the wrong type by name, before they turn into a puzzle of the driver's.

    Raises:
        UsageError: the first one that cannot be used.
    """
    if text is not None and (not isinstance(text, str) or not text.strip()):
        raise UsageError(f"text must be a string and not empty, not {text!r:.50}")
    if not isinstance(k, int) or not 1 <= k <= MAX_K:
        raise UsageError(f"k must be a whole number from 1 to {MAX_K:,}, not {k!r}")
    if where is not None and not isinstance(where, Mapping):
        raise UsageError(f"where must be a mapping of fields to values, not a {type(where).__name__}")
    if vector is not None:
        try:
            [float(x) for x in vector]  # type: ignore[attr-defined]
        except (TypeError, ValueError) as error:
            raise UsageError(f"vector must be a sequence of numbers: {error}") from error
