"""Sources in object stores. The store here is fsspec's own in memory under the scheme s3: no cloud is asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry, known_implementations

from sightline.errors import UsageError
from sightline.item import Item, expand
from tests.workers.conftest import png
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
from workers.ingress import Ingress


class Bucket(MemoryFileSystem):
    """A store with objects that nobody may read and one that is out of order; counts what it sends."""

    protocol = "s3"
    store: dict[str, Any] = {}  # noqa: RUF012 - as in the class that it comes from
    pseudo_dirs = [""]  # noqa: RUF012
    sent = 0

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(path.replace("s3://", "memory://"))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **other: Any) -> bytes:
        if path.endswith("locked.png"):
            raise PermissionError("Access Denied")
        if path.endswith("broken.png"):
            raise OSError("SlowDown: please reduce your request rate")
        data: bytes = super().cat_file(path, start=start, end=end, **other)
        Bucket.sent += len(data)
        return data


@pytest.fixture(scope="module", autouse=True)
def bucket() -> Iterator[Bucket]:
    fsspec.register_implementation("s3", Bucket, clobber=True)
    store = Bucket()
    for name in ("photos/a.png", "photos/more/b.png", "photos/locked.png", "photos/broken.png", "photosecret/a.png"):
        store.pipe_file(f"/shop/{name}", png(1))
    store.pipe_file("/shop/photos/empty.png", b"")
    store.pipe_file("/shop/photos/large.png", bytes(10_001))
    store.pipe_file("/shop/photos/.hidden", b"x")
    yield store
    _registry.pop("s3")
    assert "s3" in known_implementations


@pytest.fixture
def ingress() -> Ingress:
    return Ingress([], 10_000, 1_000_000, 100, buckets=["s3://shop/photos/"])


def test_an_object_under_an_admitted_bucket_is_read(ingress: Ingress) -> None:
    assert ingress.read_uri("s3://shop/photos/a.png", "a") == png(1)
    assert ingress.read_uri("s3://shop/photos/more/b.png", "a") == png(1)


@pytest.mark.parametrize(
    ("uri", "error", "words"),
    [
        ("s3://shop/photosecret/a.png", OutsideMediaRoots, "none of the worker's buckets .*SIGHTLINE_MEDIA_BUCKETS"),
        ("s3://other/photos/a.png", OutsideMediaRoots, "s3://other"),
        ("gs://shop/photos/a.png", OutsideMediaRoots, "gs://shop"),
        ("s3://shop/photos/../photosecret/a.png", UnsupportedSource, r"'\.\.'"),
        ("s3://shop/photos/a.png::file:///etc/passwd", UnsupportedSource, "'::'"),
        ("s3://shop/photos/none.png", NotFound, "there is no object s3://shop/photos/none.png"),
        ("s3://shop/photos/more", NotARegularFile, "is a folder"),
        ("s3://shop/photos/locked.png", PermissionDenied, "Access Denied"),
        ("s3://shop/photos/empty.png", EmptyFile, "has no bytes"),
        ("s3://shop/photos/large.png", TooManyBytes, "10,001 bytes; SIGHTLINE_MAX_BYTES admits 10,000"),
        ("s3://shop/photos/broken.png", SourceUnavailable, "OSError: SlowDown"),
    ],
)
def test_each_refusal_has_its_name(ingress: Ingress, uri: str, error: type[ItemError], words: str) -> None:
    before = Bucket.sent
    with pytest.raises(error, match=f"^a: .*{words}"):
        ingress.read_uri(uri, "a")
    assert Bucket.sent == before


def test_without_buckets_no_object_is_read() -> None:
    with pytest.raises(OutsideMediaRoots, match="it has none; SIGHTLINE_MEDIA_BUCKETS"):
        Ingress([], 10_000, 1_000_000, 100).read_uri("s3://shop/photos/a.png", "a")


def test_a_store_whose_library_is_missing_says_what_to_install() -> None:
    ingress = Ingress([], 10_000, 1_000_000, 100, buckets=["gs://shop"])
    with pytest.raises(UnsupportedSource, match=r"pip install 'sightline\[gs\]'"):
        ingress.read_uri("gs://shop/a.png", "a")


def test_a_folder_of_objects_yields_each_with_a_tag_that_tells_its_content(bucket: Bucket) -> None:
    def listed() -> dict[str, Item]:
        return {found.item.uri or "": found.item for found in expand(["s3://shop/photos/"], None)}

    first = listed()
    assert [(uri, item.external_id) for uri, item in first.items()][:1] == [("s3://shop/photos/a.png", "a.png")]
    assert {item.external_id for item in first.values()} == {
        "a.png", "more/b.png", "locked.png", "broken.png", "empty.png", "large.png",
    }  # fmt: skip
    bucket.pipe_file("/shop/photos/a.png", png(2))
    second = listed()
    changed = [item.external_id for uri, item in second.items() if item.source_tag != first[uri].source_tag]
    assert changed == ["a.png"]
    bucket.pipe_file("/shop/photos/a.png", png(1))


def test_a_folder_that_cannot_be_listed_says_so() -> None:
    with pytest.raises(UsageError, match=r"s3://none/ cannot be listed: FileNotFoundError"):
        list(expand(["s3://none/"], None))
    with pytest.raises(UsageError, match=r"gs://shop/ cannot be listed: pip install 'sightline\[gs\]'"):
        list(expand(["gs://shop/"], None))
