"""S3 by its own protocol, against moto's server; skipped where s3fs and moto are not installed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("s3fs")
pytest.importorskip("moto.server")

from sightline.item import expand
from sightline.media import MediaStore
from workers.errors import EmptyFile, ItemError, NotARegularFile, NotFound, TooManyBytes
from workers.ingress import Ingress

pytestmark = pytest.mark.filterwarnings("ignore")  # of moto and botocore


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A client of the server's that is not fsspec: another process, as it were."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    url = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "ACCESS_KEY_ID": "a",
            "SECRET_ACCESS_KEY": "b",
            "DEFAULT_REGION": "us-east-1",
            "ENDPOINT_URL": url,
        }.items():
            patch.setenv(f"AWS_{name}", value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="shop")
        for name, content in {
            "a.png": b"a" * 1000,
            "more/b.png": b"b",
            "empty.png": b"",
            "large.png": bytes(1001),
        }.items():
            client.put_object(Bucket="shop", Key=f"photos/{name}", Body=content)
        yield client
    server.stop()


@pytest.fixture
def ingress() -> Ingress:
    return Ingress([], 1000, 1_000_000, 100, buckets=["s3://shop/photos"])


def test_objects_are_read_within_limits(s3: Any, ingress: Ingress) -> None:
    assert ingress.read_uri("s3://shop/photos/a.png", "a") == b"a" * 1000
    assert ingress.read_uri("s3://shop/photos/more/b.png", "a") == b"b"
    refused: dict[str, type[ItemError]] = {
        "none.png": NotFound, "empty.png": EmptyFile, "large.png": TooManyBytes, "more": NotARegularFile,
    }  # fmt: skip
    for name, error in refused.items():
        with pytest.raises(error, match=f"^a: .*{name}"):
            ingress.read_uri(f"s3://shop/photos/{name}", "a")


def test_what_others_change_shows_in_the_next_listing(s3: Any, ingress: Ingress) -> None:
    def listed() -> dict[str | None, str | None]:
        return {found.item.external_id: found.item.source_tag for found in expand(["s3://shop/photos/"], None)}

    first = listed()
    assert sorted(map(str, first)) == ["a.png", "empty.png", "large.png", "more/b.png"]
    s3.put_object(Bucket="shop", Key="photos/a.png", Body=b"A" * 1000)
    s3.put_object(Bucket="shop", Key="photos/more/c.png", Body=b"c")
    second = listed()
    assert sorted(str(name) for name in second if second[name] != first.get(name)) == ["a.png", "more/c.png"]
    assert ingress.read_uri("s3://shop/photos/a.png", "a") == b"A" * 1000


def test_a_bucket_is_a_media_store(s3: Any) -> None:
    store, content = MediaStore("s3://shop/media"), b"content"
    digest = hashlib.sha256(content).digest()
    store.put(digest, content)
    store.put(digest, content)
    name = f"media/{digest.hex()[:2]}/{digest.hex()}"
    assert [each["Key"] for each in s3.list_objects_v2(Bucket="shop", Prefix="media")["Contents"]] == [name]
    assert store.get(digest, 100) == content
    s3.put_object(Bucket="shop", Key=name, Body=b"another")
    assert store.get(digest, 100) is None
    assert store.delete(digest)
    assert store.get(digest, 100) is None
