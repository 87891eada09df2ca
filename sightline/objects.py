"""Object stores, through fsspec: opened with this process' credentials, and listed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from sightline.errors import UsageError
from sightline.sources import OBJECTS, scheme_of

EXTRAS = {"s3": "s3", "gs": "gs", "gcs": "gs", "abfs": "abfs", "az": "abfs"}
"""Which extra of sightline reads a scheme; other ones need `media` alone."""
_TAGS = ("ETag", "etag", "md5Hash", "content_md5", "LastModified", "last_modified", "updated", "mtime", "created")


def open_store(uri: str) -> tuple[Any, str]:
    """The file system of a URI and the path in it.

    Raises:
        ImportError: fsspec, or what it needs for this scheme, is not installed.
        ValueError: fsspec knows no such scheme.
    """
    from fsspec.core import url_to_fs

    # A cached listing would hide what others store meanwhile.
    store, path = url_to_fs(uri, use_listings_cache=False)
    return store, str(path)


def how_to_install(uri: str) -> str:
    """What makes a scheme readable, in words."""
    return f"pip install 'sightline[{EXTRAS.get(scheme_of(uri) or '', 'media')}]'"


def list_objects(folder: str) -> Iterator[tuple[str, str, str]]:
    """Every object below a folder of an object store: its URI, its name below the folder, and its tag.

    Names whose last part begins with a dot are left out, as in folders of files.

    Args:
        folder: a URI that ends with "/".

    Raises:
        UsageError: it cannot be listed.
    """
    try:
        store, path = open_store(folder)
        top = path.rstrip("/")
        for parent, _, files in store.walk(top, detail=True, on_error="raise"):
            for name, info in sorted(files.items()):
                if not name or name.startswith("."):
                    continue
                below = f"{parent}/{name}".removeprefix(f"{top}/")
                yield folder + below, below, tag_of(info)
    except ImportError as error:
        raise UsageError(f"{folder} cannot be listed: {how_to_install(folder)} ({error})") from error
    except Exception as error:  # each store has errors of its own
        raise UsageError(f"{folder} cannot be listed: {type(error).__name__}: {error}") from error


def tag_of(info: Mapping[str, Any]) -> str:
    """What tells one content of an object from the next, as far as its listing shows."""
    found = next((f"{key}={info[key]}" for key in _TAGS if info.get(key)), "")
    text = f"{found} size={info.get('size')}"
    return text if len(text) <= 200 else hashlib.sha256(text.encode()).hexdigest()


def is_object_folder(source: object) -> bool:
    """Whether a source is a folder of an object store, such as s3://bucket/photos/."""
    return isinstance(source, str) and scheme_of(source) in OBJECTS and source.endswith("/")
