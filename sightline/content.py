"""The content of an item: read, measured and hashed, it becomes the specification that `sightline.add_items` reads."""

from __future__ import annotations

import errno
import hashlib
import json
import json.encoder
import os
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.item import MAX_EXTERNAL_ID, RESERVED_ID, Found, Item, is_storable, printable
from sightline.settings import Settings
from sightline.sources import MAX_URI, name_of_uri, shown, uri_problem


@dataclass(frozen=True)
class Stored:
    """What the database has under an item's external_id. `digest` is sha256 in hex, None while it is unknown."""

    uri: str | None
    source_tag: str | None
    digest: str | None
    uploaded: bool


@dataclass(slots=True)  # not frozen, which makes it three times as slow to make
class Prepared:
    """One element of `items` for the database.

    Args:
        json: `spec` as JSON; empty until it was found to be storable.
        blob: the content to upload for it; None where nothing needs uploading.
        size: bytes of that content, known also where it was not read.
    """

    spec: dict[str, Any]
    blob: bytes | None = None
    size: int = 0
    json: str = ""


_JSON = json.JSONEncoder(allow_nan=False)
_make: Any = getattr(json.encoder, "c_make_encoder", None)  # of CPython
_ENCODE = _make and _make(
    None,
    _JSON.default,
    json.encoder.encode_basestring_ascii,
    None,
    ": ",
    ", ",
    False,
    False,
    False,  # no indent, no NaN
)
"""What `_JSON.encode` makes anew for each value, which takes as long as the encoding of an item."""


def prepare(found: Found, settings: Settings, stored: Stored | None = None, *, read: bool = True) -> Prepared:
    """The specification of an item. What cannot be read becomes one with `error`: a failure of that item alone.

    Args:
        found: the item.
        settings: limits and media roots.
        stored: what the database has under its external_id. A file whose mtime and size are as stored is not read.
        read: False for a plan: a file that is not stored yet is not read either; its specification can only be counted.
    """
    item = found.item
    try:
        if found.error is not None:
            raise _unreadable(found.error, Path(item.path or ""))
        _check_types(item)
        prepared = _content(item, settings, stored, read=read)
        if found.root is not None:
            prepared.spec["root"] = found.root
        if item.metadata:
            prepared.spec["metadata"] = dict(item.metadata)
        if item.group_key is not None:
            prepared.spec["group_key"] = item.group_key
        if item.external_id is not None:
            prepared.spec["external_id"] = item.external_id
        elif item.uri is not None:
            prepared.spec["external_id"] = name_of_uri(item.uri)
        text = "".join(_ENCODE(prepared.spec, 0)) if _ENCODE else _JSON.encode(prepared.spec)
        # In ASCII a character that Postgres cannot store is an escape; most items have none that look like it.
        if ("\\u0000" in text or "\\ud" in text) and not is_storable(prepared.spec):
            raise _Unfit("BadText", "it contains a NUL character or a lone surrogate, which Postgres cannot store")
    except _Unfit as error:
        return reject(item, error.error_class, str(error))
    except (TypeError, ValueError, RecursionError) as error:
        return reject(item, "BadMetadata", f"its metadata is not JSON: {error}")
    prepared.json = text
    return prepared


class _Unfit(Exception):
    """An item that cannot be submitted."""

    def __init__(self, error_class: str, message: str) -> None:
        super().__init__(message)
        self.error_class = error_class


def _check_types(item: Item) -> None:
    """Python does not check what an Item was given."""
    if item.external_id is not None:
        _check_external_id(item.external_id)
    if item.group_key is not None:
        _check_group_key(item.group_key)
    if type(item.metadata) is not dict and not isinstance(item.metadata, Mapping):
        raise _Unfit("BadMetadata", f"metadata must be a mapping, not a {type(item.metadata).__name__}")
    if item.data is not None and not isinstance(item.data, (bytes, bytearray, memoryview)):
        raise _Unfit("BadItem", f"data must be bytes, not a {type(item.data).__name__}")
    if item.text is not None and not isinstance(item.text, str):
        raise _Unfit("BadText", f"text must be a string, not a {type(item.text).__name__}")
    _check_source(item)


def _check_source(item: Item) -> None:
    if item.path is not None and (not isinstance(item.path, (str, os.PathLike)) or not os.fspath(item.path)):
        raise _Unfit("BadItem", f"path must be a path and not empty, not {item.path!r:.50}")
    for name in ("uri", "source_tag"):
        given = getattr(item, name)
        if given is not None and (not isinstance(given, str) or not given):
            raise _Unfit("BadItem", f"{name} must be a string and not empty, not {given!r:.50}")


def _check_external_id(external_id: object) -> None:
    if not isinstance(external_id, str) or not external_id:
        raise _Unfit("BadExternalId", f"external_id must be a string and not empty, not {external_id!r:.50}")
    if len(external_id.encode("utf-8", "replace")) > MAX_EXTERNAL_ID:
        raise _Unfit("BadExternalId", f"external_id is longer than {MAX_EXTERNAL_ID:,} bytes")
    if external_id.startswith(RESERVED_ID):
        raise _Unfit("BadExternalId", f"external_id must not begin with {RESERVED_ID}, which is reserved")


def _check_group_key(group_key: object) -> None:
    if not isinstance(group_key, str) or not group_key:
        raise _Unfit("BadItem", f"group_key must be a string and not empty, not {group_key!r:.50}")
    if len(group_key.encode("utf-8", "replace")) > MAX_EXTERNAL_ID:
        raise _Unfit("BadItem", f"group_key is longer than {MAX_EXTERNAL_ID:,} bytes")


def _content(item: Item, settings: Settings, stored: Stored | None, *, read: bool) -> Prepared:
    if item.text is not None:
        if not item.text.strip():
            raise _Unfit("EmptyText", "the text is empty")
        if len(item.text) > settings.max_text_chars:
            raise _Unfit(
                "TextTooLong",
                f"{len(item.text):,} characters; SIGHTLINE_MAX_TEXT_CHARS admits {settings.max_text_chars:,}",
            )
        return Prepared({"text": item.text})
    if item.data is not None:
        return _upload(bytes(item.data), settings)
    if item.uri is not None:
        return _remote(item.uri, item.source_tag)
    return _file(Path(item.path or ""), settings, stored, read=read)


def _remote(uri: str, tag: str | None) -> Prepared:
    """A source that the worker fetches: only its form is checked here."""
    if (problem := uri_problem(uri)) is not None:
        raise _Unfit("UnsupportedSource", problem)
    if len(uri) > MAX_URI:
        raise _Unfit("UnsupportedSource", f"the uri is longer than {MAX_URI:,} characters")
    return Prepared({"uri": uri} | ({} if tag is None else {"source_tag": tag}))


def _file(path: Path, settings: Settings, stored: Stored | None, *, read: bool) -> Prepared:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise _Unfit("NotARegularFile", f"{printable(path)} is a {kind_of(status.st_mode)}")
        resolved, tag = path.resolve(), source_tag(status)
        # The tag is of before it is read: what changes meanwhile is seen the next time.
        if any(resolved.is_relative_to(root.resolve()) for root in settings.media_roots):
            tagged = {} if tag is None else {"source_tag": tag}
            return Prepared({"uri": resolved.as_uri(), **tagged, **_known_digest(resolved, status, tag, stored)})
        if status.st_size > settings.max_bytes:
            raise _too_large(status.st_size, settings)
        tagged = {} if tag is None else {"source_tag": _upload_tag(tag, resolved)}
        if stored is not None and stored.uploaded and tagged and stored.source_tag == tagged["source_tag"]:
            return Prepared({"digest": stored.digest, **tagged})
        if not read and stored is None:
            return _unread(path, status)
        uploaded = _upload(path.read_bytes(), settings)
        uploaded.spec.update(tagged)
    except (OSError, ValueError) as error:
        raise _unreadable(error, path) from error
    return uploaded


def source_tag(status: os.stat_result) -> str | None:
    """mtime and size of a file. None if it was written so lately that another write might leave both as they are.

    File systems tell time in ticks of 4 ms, some in whole seconds, FAT in two.
    """
    tick = 2_000_000_000 if status.st_mtime_ns % 1_000_000_000 == 0 else 10_000_000
    if status.st_mtime_ns > time.time_ns() - tick:
        return None
    return f"{status.st_mtime_ns}-{status.st_size}"


def _upload_tag(tag: str, path: Path) -> str:
    """The tag of an upload, which has no uri, tells the file by its path too: an id may come to mean another file."""
    return f"{tag}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}"


def _known_digest(path: Path, status: os.stat_result, tag: str | None, stored: Stored | None) -> dict[str, str]:
    """`sha256` of a file that stays where it is, if that can show that its content is the stored one."""
    if stored is None or stored.digest is None:
        return {}
    if tag is not None and (stored.uri, stored.source_tag) == (path.as_uri(), tag):
        return {}
    if tag is not None and stored.uploaded and stored.source_tag == _upload_tag(tag, path):
        return {"sha256": stored.digest}
    if stored.source_tag is not None and stored.source_tag.split("-")[1:2] != [str(status.st_size)]:
        return {}
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _unread(path: Path, status: os.stat_result) -> Prepared:
    if not status.st_size:
        raise _Unfit("EmptyFile", "it has no bytes")
    if not os.access(path, os.R_OK):
        raise PermissionError
    return Prepared({"uri": path.absolute().as_uri()}, size=status.st_size)


def _unreadable(error: OSError | ValueError, path: Path) -> _Unfit:
    if isinstance(error, FileNotFoundError):
        if path.is_symlink():
            return _Unfit("NotFound", f"{printable(path)} is a link to a file that is not there")
        return _Unfit("NotFound", f"there is no file {printable(path)}")
    if isinstance(error, PermissionError):
        return _Unfit("PermissionDenied", f"{printable(path)} cannot be read by this user")
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return _Unfit("NotARegularFile", f"{printable(path)} is a link that leads back to itself")
    # a name too long, a NUL in the name, an I/O error
    return _Unfit("Unreadable", f"{printable(path)!r}: {getattr(error, 'strerror', None) or error}")


def _upload(content: bytes, settings: Settings) -> Prepared:
    if not content:
        raise _Unfit("EmptyFile", "it has no bytes")
    if len(content) > settings.max_bytes:
        raise _too_large(len(content), settings)
    return Prepared({"digest": hashlib.sha256(content).hexdigest()}, content, len(content))


def _too_large(size: int, settings: Settings) -> _Unfit:
    return _Unfit("TooManyBytes", f"{size:,} bytes; SIGHTLINE_MAX_BYTES admits {settings.max_bytes:,}")


def kind_of(mode: int) -> str:
    """In a word, what an entry of a folder is that is no regular file."""
    return (
        "folder"
        if stat.S_ISDIR(mode)
        else "pipe"
        if stat.S_ISFIFO(mode)
        else "socket"
        if stat.S_ISSOCK(mode)
        else "device"
    )


def reject(item: Item, error_class: str, message: str) -> Prepared:
    """The specification of an item that cannot be submitted: it becomes a failure of the job."""
    if item.external_id is not None:
        name = str(item.external_id)
    elif item.path is not None:
        name = printable(Path(item.path)) if isinstance(item.path, os.PathLike) else str(item.path)
    elif item.uri is not None:
        name = shown(str(item.uri))
    else:
        given = item.data if item.data is not None else item.text
        content = (
            bytes(given) if isinstance(given, (bytes, bytearray)) else str(given).encode("utf-8", "backslashreplace")
        )
        name = "sha256:" + hashlib.sha256(content).hexdigest()
    name = name.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")[:200] or "(empty)"
    message = message.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")
    if name not in message:
        message = f"{name}: {message}"
    spec = {"external_id": name, "error": {"class": error_class, "message": message}}
    return Prepared(spec, json=_JSON.encode(spec))
