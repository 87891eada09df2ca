"""What a user hands to ingest: items, and the folders that they are found in."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from sightline.errors import UsageError
from sightline.objects import is_object_folder, list_objects
from sightline.sources import scheme_of


@dataclass(frozen=True)
class Item:
    """An image or a text to ingest: exactly one of `path`, `data` (the bytes of an image file), `text` and `uri`.

    A `uri` (https://, s3://, gs:// or abfs://) is fetched by the worker. `source_tag` says which state of it is meant,
    such as an etag or a date: ingested again with another tag, the item is fetched and encoded anew.

    `external_id` is unique in its collection: ingesting it again updates the item. It defaults to the path, to the uri
    without its signature, or to the sha256 of the content. `metadata` must be JSON; items that show one thing may share
    a `group_key`.
    """

    path: str | os.PathLike[str] | None = None
    data: bytes | None = None
    text: str | None = None
    external_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    group_key: str | None = None
    uri: str | None = None
    source_tag: str | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("path", "data", "text", "uri") if getattr(self, name) is not None]
        if len(given) != 1:
            raise UsageError(
                f"an item has exactly one of path, data, text and uri, not {' and '.join(given) or 'none'}"
            )
        if self.source_tag is not None and self.uri is None:
            raise UsageError("a source_tag belongs to a uri; files have their own")


MAX_EXTERNAL_ID = 2000
"""Bytes of an external_id: it is part of a unique index, whose rows Postgres limits. A group_key has as many."""

RESERVED_ID = "sightline:"
"""How the external_id of an item begins that sightline made itself, such as the text of a caption."""

Ingestible = Item | str | os.PathLike[str] | bytes | Mapping[str, Any]
"""A path of a file or folder, a URI, the bytes of an image file, an Item, or a mapping of Item's fields."""


@dataclass(frozen=True)
class Found:
    """An item of a stream, and where it was found.

    Args:
        root: name of the folder that its external_id is a path below, see `root_name`; None where it is no such path.
        error: the item is a folder that could not be read, for this reason.
    """

    item: Item
    root: str | None = None
    error: OSError | None = None


def _objects(folder: Item) -> Iterator[Found]:
    """The items of a folder of an object store. Raises UsageError where it is given what is of one item."""
    if folder.external_id is not None or folder.source_tag is not None:
        raise UsageError(f"{folder.uri} is a folder of many items: give it neither external_id nor source_tag")
    for uri, name, tag in list_objects(str(folder.uri)):
        yield Found(replace(folder, uri=uri, external_id=name, source_tag=tag))


def expand(items: Ingestible | Iterable[Ingestible], root: Path | None) -> Iterator[Found]:
    """Items one by one; a folder yields each of its files, hidden ones left out, in a stable order.

    So does a folder of an object store, which is a URI that ends with "/"; its listing has the tags of its objects.

    External ids of paths are relative to `root`, or to the folder given. A folder may be given by a symbolic link;
    links to folders inside it are not followed: each becomes an item, which is refused by name. So does a folder that
    cannot be read.

    Raises:
        UsageError: an element is of a type that cannot be ingested.
    """
    if isinstance(items, (Item, str, bytes, os.PathLike, Mapping)):
        items = [items]
    if not isinstance(items, Iterable):
        raise UsageError(f"cannot ingest a {type(items).__name__}: give a path, bytes, Item, mapping, or many of them")
    for given in items:
        item = _as_item(given)
        if is_object_folder(item.uri):
            yield from _objects(item)
            continue
        if item.external_id is not None or not isinstance(item.path, (str, os.PathLike)) or not os.fspath(item.path):
            yield Found(item)
            continue
        path = Path(item.path)
        if not is_folder(path):
            yield _found(item, path, root, None if root is None else root_name(root))
            continue
        base = root or path
        name = root_name(base)
        for file in walk(path):
            if isinstance(file, OSError):
                yield replace(_found(item, Path(file.filename), base, name), error=file)
            else:
                yield _found(item, file, base, name)


def _as_item(given: Ingestible) -> Item:
    if isinstance(given, Item):
        return given
    if isinstance(given, bytes):
        return Item(data=given)
    if scheme_of(given) not in (None, "file"):
        return Item(uri=str(given))
    if isinstance(given, (str, os.PathLike)):
        return Item(path=given)
    if isinstance(given, Mapping):
        unknown = set(given) - set(Item.__dataclass_fields__)
        if unknown:
            raise UsageError(f"unknown field of an item: {', '.join(sorted(map(str, unknown)))}")
        return Item(**given)
    raise UsageError(f"cannot ingest a {type(given).__name__}: give a path, bytes, Item or mapping")


def _found(item: Item, path: Path, root: Path | None, name: str | None) -> Found:
    if root is not None and path.is_relative_to(root):
        return Found(replace(item, path=path, external_id=printable(path.relative_to(root))), name)
    return Found(replace(item, path=path, external_id=printable(path)))


def is_folder(path: Path) -> bool:
    """Whether a path is a folder, or a link to one."""
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that is too long or has a NUL: reading it will say so
        return False


def walk(folder: Path) -> Iterator[Path | OSError]:
    """Every entry below a folder that is no folder, and the links to folders that are not followed.

    A folder that cannot be read is an OSError, whose `filename` it is.
    """
    errors: list[OSError] = []
    for parent, folders, files in os.walk(folder, onerror=errors.append):
        yield from errors
        errors.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]  # noqa: PTH114, PTH118 - raises not
        for name in sorted([*files, *links]):
            if not name.startswith("."):
                yield Path(parent) / name
    yield from errors


def printable(path: Path) -> str:
    """A path as text; bytes that are not UTF-8 are shown as escapes, because Postgres cannot store them."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def path_of_uri(uri: str) -> str:
    """The path that a `file:///` source means, also one that is not UTF-8.

    A '?' or '#' that was not escaped belongs to the name of the file.
    """
    return os.fsdecode(unquote_to_bytes(uri.removeprefix("file://")))


def root_name(root: Path) -> str:
    """A folder as it stands in `item.root`: absolute, without links."""
    return printable(Path(os.path.realpath(root)))


_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def is_storable(value: Any) -> bool:
    """Whether Postgres can store every string of a JSON value: it is UTF-8 and has no NUL."""
    if isinstance(value, str):
        return _UNSTORABLE.search(value) is None
    if isinstance(value, Mapping):
        return all(is_storable(key) and is_storable(inner) for key, inner in value.items())
    return not isinstance(value, (list, tuple)) or all(map(is_storable, value))
