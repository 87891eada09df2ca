"""Texts of strangers made fit to be stored and shown: no control characters, one kind of space, bounded."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

MAX_CAPTION: Final = 2000
"""Characters of the longest caption that a model may answer."""
_TURNING: Final = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
"""Marks that turn the direction of what follows, so that a text reads otherwise than it is."""


def one_line(text: str) -> str:
    """The text without control characters, lone surrogates and direction marks; any white space becomes one space."""
    spaced = " ".join(_TURNING.sub("", text).split())
    return "".join(sign for sign in spaced if unicodedata.category(sign) not in ("Cc", "Cs"))
