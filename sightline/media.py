"""The media store: uploaded content under its sha256, outside the database."""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

from sightline.errors import ConfigurationError, ServiceMissing
from sightline.objects import how_to_install, open_store


class MediaStore:
    """Content by digest, in a folder or bucket of any store that fsspec knows. Safe in threads.

    The content with sha256 `abcd...` is the object `<url>/ab/abcd...`, written once and never changed.

    Args:
        url: such as s3://bucket/media or file:///mnt/media.

    Raises:
        ConfigurationError: the store cannot be opened; the message says what is missing.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        if "::" in url or "://" not in url:
            raise ConfigurationError(
                f"SIGHTLINE_MEDIA_URL: {url!r} is no URL such as s3://bucket/media or file:///mnt/media"
            )
        try:
            self._store, self._top = open_store(self.url)
        except ImportError as error:
            raise ConfigurationError(f"SIGHTLINE_MEDIA_URL: {how_to_install(url)} ({error})") from error
        except Exception as error:  # each store has errors of its own
            raise ConfigurationError(f"SIGHTLINE_MEDIA_URL: {url} cannot be opened: {error}") from error
        protocol = self._store.protocol
        self._local = "file" in ([protocol] if isinstance(protocol, str) else protocol)

    def put(self, digest: bytes, content: bytes) -> None:
        """Store content, unless it is there.

        Raises:
            ServiceMissing: the store does not take it.
        """
        path = self._path(digest)
        try:
            if self._size(path) == len(content):
                return
            if not self._local:
                self._store.pipe_file(path, content)
                return
            # A file appears under its name only once it is whole.
            self._store.makedirs(path.rpartition("/")[0], exist_ok=True)
            part = f"{path}.{secrets.token_hex(8)}.part"
            self._store.pipe_file(part, content)
            self._store.mv(part, path)
        except Exception as error:
            raise ServiceMissing(
                f"the media store {self.url} took no content: {type(error).__name__}: {error}"
            ) from error

    def get(self, digest: bytes, max_bytes: int) -> bytes | None:
        """The content; None if it is not there, is larger than `max_bytes`, or is another than its name says.

        Raises:
            ServiceMissing: the store does not answer.
        """
        path = self._path(digest)
        try:
            content: bytes = self._store.cat_file(path, start=0, end=max_bytes + 1)
        except FileNotFoundError:
            return None
        except Exception as error:
            raise ServiceMissing(
                f"the media store {self.url} did not answer: {type(error).__name__}: {error}"
            ) from error
        return content if len(content) <= max_bytes and hashlib.sha256(content).digest() == digest else None

    def delete(self, digest: bytes) -> bool:
        """Delete content; whether it was there.

        Raises:
            ServiceMissing: the store refuses.
        """
        try:
            self._store.rm_file(self._path(digest))
        except FileNotFoundError:
            return False
        except Exception as error:
            raise ServiceMissing(
                f"the media store {self.url} keeps {digest.hex()}: {type(error).__name__}: {error}"
            ) from error
        return True

    def _path(self, digest: bytes) -> str:
        name = digest.hex()
        return f"{self._top}/{name[:2]}/{name}"

    def _size(self, path: str) -> Any:
        try:
            return self._store.info(path).get("size")
        except FileNotFoundError:
            return None
