"""Where an item's content may lie: the forms of a source, and how one is shown."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

WEB = ("http", "https")
# What a signed link must have, and all that belongs to its signature: of S3, Cloud Storage, older kinds, Azure.
_SIGNED = (
    ("x-amz-signature", re.compile("x-amz-.*")),
    ("x-goog-signature", re.compile("x-goog-.*")),
    ("signature", re.compile("signature|expires|key-pair-id|policy|awsaccesskeyid|googleaccessid")),
    ("sig", re.compile("sig|s[erptsv]|srt|spr|sip|skoid|sktid|sk[tesv]")),
)
OBJECTS = ("s3", "gs", "abfs")
"""Schemes of object stores, as fsspec calls them."""
MAX_URI = 8000
"""Characters of a source: signed links have some thousand."""


def scheme_of(source: object) -> str | None:
    """The scheme of a source that is a URI in a string, in small letters; None of a path."""
    if not isinstance(source, str):
        return None
    scheme, colon, _ = source.partition("://")
    return scheme.lower() if colon and scheme.isalnum() and scheme.isascii() else None


def uri_problem(uri: str) -> str | None:
    """What is wrong with the form of a source, or None. SQL's `item_problem` says the same.

    Whether it may be read is decided by the worker that reads it.
    """
    scheme = scheme_of(uri)
    if scheme == "file":
        return None if uri.startswith("file:///") else "a file's uri begins with file:///"
    if scheme not in (*WEB, *OBJECTS):
        return "a uri must begin with file:///, http://, https://, s3://, gs:// or abfs://"
    place = uri.partition("://")[2].split("/", 1)[0].split("?", 1)[0].split("#", 1)[0]
    if not place:
        return "the uri names no host"
    if scheme in WEB and "@" in place:
        return "the uri holds a user or password, which would be stored for all to read: use a signed link"
    return None


def name_of_uri(uri: str) -> str:
    """The external_id of an item that was given none: a link signed anew names the same item."""
    if scheme_of(uri) not in WEB:
        return uri
    bare, _, query = uri.partition("#")[0].partition("?")
    parts = {part: part.partition("=")[0].lower() for part in query.split("&") if part}
    signature = next((of for mark, of in _SIGNED if mark in parts.values()), None)
    kept = [part for part, name in parts.items() if signature is None or not signature.fullmatch(name)]
    return bare + (f"?{'&'.join(kept)}" if kept else "")


def shown(uri: str) -> str:
    """A source as messages and logs have it: the query of a link may be its key."""
    if scheme_of(uri) not in WEB:
        return uri
    try:
        parts = urlsplit(uri)
    except ValueError:
        return uri.partition("?")[0]
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" + ("?..." if parts.query else "")
