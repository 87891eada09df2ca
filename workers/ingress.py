"""The one guarded place where content enters: sources, limits and digests."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from sightline.content import kind_of
from sightline.errors import ConfigurationError, ServiceMissing
from sightline.item import path_of_uri
from sightline.media import MediaStore
from sightline.settings import Settings
from sightline.sources import OBJECTS, WEB, scheme_of
from workers.errors import (
    NotARegularFile,
    NotFound,
    OutsideMediaRoots,
    PermissionDenied,
    SourceUnavailable,
    TextTooLong,
    TooManyBytes,
    UnsupportedSource,
)
from workers.images import Decoded, DecodeSize, decode_image, limit_pixels
from workers.objects import Objects
from workers.room import Room
from workers.web import Web, WebLimits

_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY
"""A pipe does not block the open, and the last part of a resolved path cannot have become a link meanwhile."""


class Ingress:
    """Reads and decodes sources within limits. Safe in threads.

    Args:
        media_roots: folders under which `file:///` sources may lie, after links and `..` are resolved.
        max_bytes: of an encoded image.
        max_pixels: of a decoded image.
        max_text_chars: of a text.
        web: fetches http(s) sources; None refuses them.
        buckets: object stores that may be read, see `workers.objects.Objects`.
        media: where uploads lie that are not in the database.
    """

    def __init__(
        self, media_roots: Sequence[Path], max_bytes: int, max_pixels: int, max_text_chars: int,
        *, web: Web | None = None, buckets: Sequence[str] = (), media: MediaStore | None = None,
    ) -> None:  # fmt: skip
        self._roots = [Path(os.path.realpath(root)) for root in media_roots]
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels
        self._max_text_chars = max_text_chars
        self._room = Room(max_pixels)
        self._web = web
        self._objects = Objects(buckets, max_bytes)
        self._media = media
        limit_pixels(max_pixels)

    @classmethod
    def of(cls, settings: Settings) -> Ingress:
        """The ingress of a worker.

        Raises:
            ConfigurationError: a setting cannot be used; the message names it.
        """
        limits = WebLimits(settings.fetch_seconds, settings.fetch_idle_seconds, settings.max_redirects)
        try:
            web = Web(settings.max_bytes, limits, settings.allowed_hosts)
        except ValueError as error:
            raise ConfigurationError(f"SIGHTLINE_ALLOWED_HOSTS: {error}") from error
        media = MediaStore(settings.media_url) if settings.media_url else None
        return cls(
            settings.media_roots, settings.max_bytes, settings.max_pixels, settings.max_text_chars,
            web=web, buckets=settings.media_buckets, media=media,
        )  # fmt: skip

    def read_uri(self, uri: str, name: str) -> bytes:
        """The bytes of a source.

        Raises:
            ItemError: UnsupportedSource, OutsideMediaRoots, ForbiddenAddress, NotFound, LinkExpired, NotARegularFile,
                PermissionDenied, SourceRefused, TooManyBytes, or SourceUnavailable, which is worth another try.
        """
        scheme = scheme_of(uri)
        if scheme in WEB and self._web is not None:
            return self.check_bytes(self._web.fetch(uri, name), name)
        if scheme in OBJECTS:
            return self._objects.read(uri, name)
        return self._read_file(uri, name)

    def read_media(self, digest: bytes, name: str) -> bytes:
        """The bytes of an upload that lies in the media store.

        Raises:
            ItemError: NotFound, or SourceUnavailable, which is worth another try.
        """
        if self._media is None:
            raise SourceUnavailable(
                f"{name}: its content lies in a media store, and SIGHTLINE_MEDIA_URL is not set where the worker runs"
            )
        try:
            data = self._media.get(digest, self._max_bytes)
        except ServiceMissing as error:
            raise SourceUnavailable(f"{name}: {error}") from error
        if data is None:
            raise NotFound(
                f"{name}: the media store {self._media.url} has no content of sha256 {digest.hex()} of at most "
                f"{self._max_bytes:,} bytes (SIGHTLINE_MAX_BYTES); ingest it again"
            )
        return data

    def _read_file(self, uri: str, name: str) -> bytes:
        path = self._path(uri, name)
        try:
            handle = os.open(path, _OPEN)
        except OSError as error:
            raise _unreadable(error, uri, name) from error
        try:
            size = self._check_opened(handle, uri, name)
            data = _read(handle, size, self._max_bytes + 1)
        except OSError as error:
            raise _unreadable(error, uri, name) from error
        finally:
            os.close(handle)
        return self.check_bytes(data, name)

    def check_bytes(self, data: bytes, name: str) -> bytes:
        """Return the data if it is within `max_bytes`. Raises TooManyBytes."""
        if len(data) > self._max_bytes:
            raise TooManyBytes(f"{name} has {len(data):,} bytes; SIGHTLINE_MAX_BYTES admits {self._max_bytes:,}")
        return data

    def check_text(self, text: str, name: str) -> str:
        """Return the text if it is within `max_text_chars`. Raises TextTooLong."""
        if len(text) > self._max_text_chars:
            raise TextTooLong(
                f"{name} has {len(text):,} characters; SIGHTLINE_MAX_TEXT_CHARS admits {self._max_text_chars:,}"
            )
        return text

    @contextmanager
    def decoded(self, data: bytes, name: str, decode_size: DecodeSize) -> Iterator[Decoded]:
        """The image while the caller needs its pixels; large ones wait for each other.

        Args:
            decode_size: of the encoder that they are for.

        Raises:
            ItemError: see `workers.images.decode_image`.
        """
        with ExitStack() as held:
            yield decode_image(
                self.check_bytes(data, name),
                name,
                self._max_pixels,
                lambda pixels: held.enter_context(self._room.hold(pixels)),
                decode_size,
            )

    def _path(self, uri: str, name: str) -> Path:
        """The resolved path of a URI, if it lies under a media root."""
        parts = urlsplit(uri)
        if parts.scheme in ("http", "https"):
            raise UnsupportedSource(f"{name}: {parts.scheme} sources are not fetched here; send the bytes")
        if parts.scheme == "vector":
            raise UnsupportedSource(
                f"{name}: only its vector was imported; ingest its file under this external_id to encode it"
            )
        if parts.scheme != "file" or parts.netloc or not parts.path.startswith("/"):
            raise UnsupportedSource(f"{name}: the source {uri!r} is neither a link nor of the form file:///path")
        path = path_of_uri(uri)
        if "\0" in path:
            raise UnsupportedSource(f"{name}: the source {uri!r} holds a zero byte")
        resolved = Path(os.path.realpath(path))
        if not self._admitted(resolved):
            raise OutsideMediaRoots(f"{name}: {uri} lies under none of {self._stated_roots}")
        return resolved

    @property
    def _stated_roots(self) -> str:
        roots = ", ".join(map(str, self._roots)) or "it has none"
        return f"the worker's media roots ({roots}; SIGHTLINE_MEDIA_ROOTS where the worker runs)"

    def _admitted(self, resolved: Path) -> bool:
        return any(resolved.is_relative_to(root) for root in self._roots)

    def _check_opened(self, handle: int, uri: str, name: str) -> int:
        """Check what was really opened: its kind, size and, where the system tells, that it still lies under a root.

        Returns:
            Its size in bytes.
        """
        opened = os.fstat(handle)
        if not stat.S_ISREG(opened.st_mode):
            raise NotARegularFile(f"{name}: {uri} is a {kind_of(opened.st_mode)}")
        if opened.st_size > self._max_bytes:
            raise TooManyBytes(f"{name} has {opened.st_size:,} bytes; SIGHTLINE_MAX_BYTES admits {self._max_bytes:,}")
        try:
            actual = os.readlink(f"/proc/self/fd/{handle}")  # noqa: PTH115 - a seventh of the time, for each file
        except OSError:
            return opened.st_size
        if not self._admitted(Path(actual.removesuffix(" (deleted)"))):
            raise OutsideMediaRoots(f"{name}: {uri} lies under none of {self._stated_roots}")
        return opened.st_size


def _read(handle: int, size: int, most: int) -> bytes:
    """A file's bytes, at most `most`; asked for by its size, for making room for more takes longer than reading it."""
    pieces: list[bytes] = []
    left, expected = most, size + 1  # one more, to see the end
    while left > 0 and (piece := os.read(handle, min(left, expected))):
        pieces.append(piece)
        left -= len(piece)
        expected = max(2**16, expected - len(piece))
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def digest_of(content: bytes | str) -> bytes:
    """sha256 of bytes, or of a text in UTF-8: 32 bytes."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).digest()


def _unreadable(
    error: OSError, uri: str, name: str
) -> NotFound | PermissionDenied | NotARegularFile | UnsupportedSource | SourceUnavailable:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return NotFound(f"{name}: there is no file {uri}")
    if error.errno in (errno.EACCES, errno.EPERM):
        return PermissionDenied(f"{name}: the worker may not read {uri}")
    if error.errno == errno.ELOOP:
        return NotARegularFile(f"{name}: {uri} is a link that leads back to itself")
    if error.errno in (errno.EISDIR, errno.ENXIO, errno.ENODEV):
        return NotARegularFile(f"{name}: {uri} is not a regular file")
    if error.errno in (errno.ENAMETOOLONG, errno.EINVAL):
        return UnsupportedSource(f"{name}: {uri} cannot be opened: {error.strerror}")
    return SourceUnavailable(f"{name}: reading {uri} failed: {error.strerror or error}")
