"""Sources: what may be read, and what is refused by which name."""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
from pathlib import Path

import pytest

from sightline.content import prepare
from sightline.errors import ConfigurationError
from sightline.item import Found, Item
from sightline.media import MediaStore
from sightline.settings import Settings
from tests.workers.conftest import png
from workers.errors import (
    ItemError,
    NotARegularFile,
    NotFound,
    OutsideMediaRoots,
    PermissionDenied,
    SourceUnavailable,
    TextTooLong,
    TooManyBytes,
    UnsupportedSource,
)
from workers.ingress import Ingress, _unreadable


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "media").mkdir()
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "secret.png").write_bytes(png(0))
    return tmp_path / "media"


@pytest.fixture
def ingress(root: Path) -> Ingress:
    return Ingress([root], max_bytes=10_000, max_pixels=1_000_000, max_text_chars=100)


def test_a_file_under_a_root_is_read(ingress: Ingress, root: Path) -> None:
    for name in ("plain.png", "with space & #1?.png", "ünïcode.png", "100%25.png", os.fsdecode(b"caf\xe9.png")):
        (root / name).write_bytes(png(1))
        assert ingress.read_uri((root / name).as_uri(), "a") == png(1)


def test_nothing_outside_the_roots_is_read(ingress: Ingress, root: Path) -> None:
    secret = root.parent / "private" / "secret.png"
    (root / "link.png").symlink_to(secret)
    (root / "folder").symlink_to(secret.parent)
    for uri in (
        secret.as_uri(),
        f"file://{root}/../private/secret.png",
        f"file://{root}/%2e%2e/private/secret.png",
        f"file://{root}/link.png",
        f"file://{root}/folder/secret.png",
        f"file://{root}-else/x.png",
        "file:///etc/passwd",
        "file:///proc/self/environ",
        "file:///there/is/no/such/file",
    ):
        with pytest.raises(OutsideMediaRoots, match="a: file:///"):
            ingress.read_uri(uri, "a")


def test_without_roots_nothing_is_read(root: Path) -> None:
    (root / "x.png").write_bytes(png(1))
    with pytest.raises(OutsideMediaRoots, match="SIGHTLINE_MEDIA_ROOTS"):
        Ingress([], 10_000, 1_000_000, 100).read_uri((root / "x.png").as_uri(), "a")


def test_a_link_within_a_root_is_followed(ingress: Ingress, root: Path) -> None:
    (root / "real.png").write_bytes(png(1))
    (root / "link.png").symlink_to("real.png")
    assert ingress.read_uri((root / "link.png").as_uri(), "a") == png(1)


def test_a_root_that_is_a_link_holds_what_it_links_to(root: Path) -> None:
    (root / "x.png").write_bytes(png(1))
    link = root.parent / "link"
    link.symlink_to(root)
    assert Ingress([link], 10_000, 1_000_000, 100).read_uri(f"file://{link}/x.png", "a") == png(1)


def test_only_regular_files_are_opened(ingress: Ingress, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(root / "pipe")
    (root / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(root)  # the path of a socket must be short
        listener.bind("socket")
        for name in ("pipe", "folder", "socket"):
            with pytest.raises(NotARegularFile, match=name):
                ingress.read_uri((root / name).as_uri(), "a")
    with pytest.raises(NotARegularFile):
        Ingress([Path("/dev")], 10_000, 1_000_000, 100).read_uri("file:///dev/zero", "a")


def test_a_large_file_is_refused_unread(ingress: Ingress, root: Path) -> None:
    with (root / "huge").open("wb") as file:
        file.truncate(2**40)  # sparse: reading it would take all memory
    with pytest.raises(TooManyBytes, match=r"1,099,511,627,776 bytes; SIGHTLINE_MAX_BYTES admits 10,000"):
        ingress.read_uri((root / "huge").as_uri(), "a")
    with pytest.raises(TooManyBytes):
        ingress.check_bytes(b"x" * 10_001, "a")


def test_what_is_not_there_is_named(ingress: Ingress, root: Path) -> None:
    (root / "file").write_bytes(b"")
    for name in ("none.png", "file/none.png"):
        with pytest.raises(NotFound, match=r"none\.png"):
            ingress.read_uri(f"file://{root}/{name}", "a")


def test_a_file_of_another_user_is_denied() -> None:
    """Root reads everything, so it does as nobody does."""
    with tempfile.TemporaryDirectory(prefix="sightline-denied-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "x.png").write_bytes(png(1))
        (folder / "x.png").chmod(0)
        ingress = Ingress([folder], 10_000, 1_000_000, 100)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            with pytest.raises(PermissionDenied, match=r"^a: the worker may not read file:///.*x\.png$"):
                ingress.read_uri((folder / "x.png").as_uri(), "a")
            refused = prepare(Found(Item(path=folder / "x.png", external_id="a")), Settings()).spec["error"]
        finally:
            if root:
                os.seteuid(0)
    assert refused["class"] == "PermissionDenied"
    assert refused["message"].endswith("x.png cannot be read by this user")


@pytest.mark.parametrize(
    "uri",
    [
        "http://example.com/a.png",  # no fetcher was given
        "https://example.com/a.png",
        "ftp://x/a",
        "file://host/a.png",
        "a.png",
        "",
    ],
)
def test_other_sources_are_refused_by_name(ingress: Ingress, uri: str) -> None:
    with pytest.raises(UnsupportedSource, match=uri.split("/", maxsplit=1)[0].rstrip(":") or "''"):
        ingress.read_uri(uri, "a")


def test_settings_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^SIGHTLINE_ALLOWED_HOSTS: 'http://images' is no host"):
        Ingress.of(Settings(allowed_hosts=["http://images"]))
    with pytest.raises(ConfigurationError, match=r"^SIGHTLINE_MEDIA_URL: 'media' is no URL"):
        Ingress.of(Settings(media_url="media"))


def test_an_upload_in_a_media_store_needs_one_and_the_content_in_it(tmp_path: Path) -> None:
    settings = Settings(media_url=f"file://{tmp_path}/media", max_bytes=10)
    content = b"content"
    digest = hashlib.sha256(content).digest()
    with pytest.raises(SourceUnavailable, match="SIGHTLINE_MEDIA_URL is not set where the worker runs"):
        Ingress.of(Settings()).read_media(digest, "a")
    with pytest.raises(NotFound, match=r"has no content of sha256 .*ingest it again"):
        Ingress.of(settings).read_media(digest, "a")
    MediaStore(settings.media_url or "").put(digest, content)
    assert Ingress.of(settings).read_media(digest, "a") == content


def test_paths_that_cannot_be_are_refused(ingress: Ingress, root: Path) -> None:
    for uri in (f"file://{root}/%00.png", f"file://{root}/{'x' * 5000}.png"):
        with pytest.raises(UnsupportedSource):
            ingress.read_uri(uri, "a")


def test_errors_that_may_pass_are_retryable() -> None:
    import errno

    for number in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE):
        error: ItemError = _unreadable(OSError(number, os.strerror(number)), "file:///x", "a")
        assert isinstance(error, SourceUnavailable)
        assert error.retryable
    assert not NotFound("").retryable


def test_a_long_text_is_refused(ingress: Ingress) -> None:
    assert ingress.check_text("x" * 100, "a")
    with pytest.raises(TextTooLong, match="101 characters; SIGHTLINE_MAX_TEXT_CHARS admits 100"):
        ingress.check_text("x" * 101, "a")
