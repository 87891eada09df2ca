"""Reading sources in object stores, through fsspec."""

from __future__ import annotations

from collections.abc import Sequence

from sightline.objects import how_to_install, open_store
from sightline.sources import uri_problem
from workers.errors import (
    EmptyFile,
    ItemError,
    NotARegularFile,
    NotFound,
    OutsideMediaRoots,
    PermissionDenied,
    SourceUnavailable,
    TooManyBytes,
    UnsupportedSource,
)


class Objects:
    """Reads s3, gs and abfs sources. Safe in threads.

    A worker reads with its own credentials whatever somebody else names, so what it may read is listed.

    Args:
        buckets: sources under which those may lie, such as s3://bucket/folder.
        max_bytes: of one object.
    """

    def __init__(self, buckets: Sequence[str], max_bytes: int) -> None:
        self._buckets = [bucket.rstrip("/") for bucket in buckets]
        self._max_bytes = max_bytes

    def read(self, uri: str, name: str) -> bytes:
        """The bytes of an object.

        Raises:
            ItemError: UnsupportedSource, OutsideMediaRoots, NotFound, NotARegularFile, PermissionDenied, EmptyFile,
                TooManyBytes, or SourceUnavailable, which is worth another try.
        """
        problem = uri_problem(uri)
        if problem is None and ("::" in uri or {".", ".."} & set(uri.split("/"))):
            problem = f"the name of {uri} holds '::', '.' or '..'"
        if problem is not None:
            raise UnsupportedSource(f"{name}: {problem}")
        if not any(uri.startswith(f"{bucket}/") for bucket in self._buckets):
            listed = ", ".join(self._buckets) or "it has none"
            raise OutsideMediaRoots(
                f"{name}: {uri} lies under none of the worker's buckets "
                f"({listed}; SIGHTLINE_MEDIA_BUCKETS where the worker runs)"
            )
        return read_object(uri, name, self._max_bytes)


def read_object(uri: str, name: str, max_bytes: int) -> bytes:
    """The bytes of an object, wherever it lies; at most `max_bytes` and one are fetched.

    Raises:
        ItemError: as `Objects.read`.
    """
    try:
        store, path = open_store(uri)
        info = store.info(path)
        if info.get("type") == "directory":
            raise NotARegularFile(f"{name}: {uri} is a folder")
        size = info.get("size")
        if size == 0:
            raise EmptyFile(f"{name}: {uri} has no bytes")
        if size is not None and size > max_bytes:
            raise _too_large(uri, name, f"{size:,}", max_bytes)
        data: bytes = store.cat_file(path, start=0, end=max_bytes + 1)
    except ItemError:
        raise
    except Exception as error:  # each store has errors of its own
        raise _explained(error, uri, name) from error
    if len(data) > max_bytes:
        raise _too_large(uri, name, f"more than {max_bytes:,}", max_bytes)
    return data


def _explained(error: Exception, uri: str, name: str) -> ItemError:
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return NotFound(f"{name}: there is no object {uri}")
    if isinstance(error, IsADirectoryError):
        return NotARegularFile(f"{name}: {uri} is a folder")
    if isinstance(error, PermissionError):
        return PermissionDenied(f"{name}: the worker may not read {uri}: {error}")
    if isinstance(error, ImportError):
        return UnsupportedSource(f"{name}: the worker cannot read {uri}: {how_to_install(uri)} there ({error})")
    return SourceUnavailable(f"{name}: reading {uri} failed: {type(error).__name__}: {error}")


def _too_large(uri: str, name: str, size: str, max_bytes: int) -> TooManyBytes:
    return TooManyBytes(f"{name}: {uri} has {size} bytes; SIGHTLINE_MAX_BYTES admits {max_bytes:,}")
