"""Captions as they are stored: plain text, bounded in length, without control characters."""

from __future__ import annotations

import re
import unicodedata

MAX_CHARS = 10_000
"""Of a stored caption; the table has the same bound."""
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]+")
_HIDDEN = dict.fromkeys([*range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070), 0xFEFF])
"""Zero-width characters and those that turn the direction of writing: what is read is what is there."""


def clean(text: str) -> tuple[str, bool]:
    """A caption fit to be stored, and whether its end was cut off. May be empty."""
    text = text.encode("utf-8", "ignore").decode().translate(_HIDDEN)
    text = _CONTROL.sub(" ", unicodedata.normalize("NFC", text).replace("\r\n", "\n"))
    lines = [" ".join(line.split()) for line in text.split("\n")]
    text = "\n".join(line for line in lines if line)
    return text[:MAX_CHARS].rstrip(), len(text) > MAX_CHARS
