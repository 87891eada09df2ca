"""What callers send with their calls, and how they are told what is wrong with it."""

from __future__ import annotations

import base64
import binascii

from sightline.contracts.call import CallError
from workers.errors import InvalidInput


def image_bytes(image: str, name: str) -> bytes:
    """The bytes of an image that was sent in base64. Raises InvalidInput."""
    try:
        return base64.b64decode(image, validate=True)
    except binascii.Error as error:
        raise InvalidInput(f"{name}: image is not base64: {error}") from error


def call_error(error_class: str, message: str, item: int | None) -> CallError:
    """An error as JSON can carry it: without lone surrogates."""
    return CallError(error_class=error_class, message=message.encode("utf-8", "backslashreplace").decode(), item=item)
