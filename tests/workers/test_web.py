"""Links: what is fetched, and what is refused at which limit; each against a real server on this machine."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workers.web_server import PICTURE, WebServer, answer, certificate, packed, redirect, serving
from workers.errors import (
    ForbiddenAddress,
    ItemError,
    LinkExpired,
    NotFound,
    PermissionDenied,
    SourceRefused,
    SourceUnavailable,
    TooManyBytes,
    UnsupportedSource,
)
from workers.web import Web, WebLimits

LIMITS = WebLimits(seconds=60, idle_seconds=30, redirects=3)


@pytest.fixture(scope="module")
def server() -> Iterator[WebServer]:
    with serving() as running:
        yield running


@pytest.fixture
def web() -> Web:
    return Web(10_000, LIMITS, ["127.0.0.1"])


def test_the_content_of_a_link_is_fetched(server: WebServer, web: Web) -> None:
    server.way("/a.png", answer(PICTURE))
    server.asked.clear()
    assert web.fetch(server.url("/a.png?size=1 00&name=ü#part"), "a") == PICTURE
    lines = server.asked[0].split("\r\n")
    assert lines[0] == "GET /a.png?size=1%2000&name=%C3%BC HTTP/1.1"
    assert f"Host: 127.0.0.1:{server.port}" in lines
    assert "Accept-Encoding: identity" in lines
    assert not any(line.lower().startswith(("cookie", "authorization", "referer")) for line in lines)


@pytest.mark.parametrize(
    "body",
    [
        b"HTTP/1.0 200 OK\r\n\r\n" + PICTURE,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(PICTURE), PICTURE),
        b"HTTP/1.1 100 Continue\r\n\r\n" + answer(PICTURE),
        answer(PICTURE, "200 OK", "Content-Encoding: identity"),
    ],
    ids=["until the end", "in chunks", "after continue", "named identity"],
)
def test_each_way_to_send_a_body_is_understood(server: WebServer, web: Web, body: bytes) -> None:
    assert web.fetch(server.way("/body", body), "a") == PICTURE


def test_without_an_allowed_host_loopback_is_refused_and_never_asked(server: WebServer) -> None:
    server.asked.clear()
    url = server.way("/a.png", answer(PICTURE))
    for link in (
        url,
        server.url("/a.png", "localhost"),
        server.url("/a.png", "[::ffff:127.0.0.1]"),
        server.url("/a.png", "127.1.1.1"),
    ):
        with pytest.raises(ForbiddenAddress, match=r"^a: the worker may not connect to"):
            Web(10_000, LIMITS).fetch(link, "a")
    assert server.asked == []


@pytest.mark.parametrize(
    "host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0x7f.1", "127.0.0.0x1", "017700000001", "0"]
)
def test_addresses_in_disguise_are_refused(server: WebServer, host: str) -> None:
    with pytest.raises(ForbiddenAddress):
        Web(10_000, LIMITS, ["127.0.0.1", "127.0.0.0/8"]).fetch(server.url("/a.png", host), "a")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://user:secret@127.0.0.1/a.png", "user or password"),
        ("http://[fe80::1%25eth0]/a.png", "cannot be|no link"),
        ("http:///a.png", "no host"),
        ("http://127.0.0.1:99999/a.png", "no link"),
        ("http://[::1/a.png", "no link"),
        ("http://a b/a.png", "cannot be"),
    ],
)
def test_what_is_no_link_is_refused(web: Web, url: str, words: str) -> None:
    with pytest.raises(UnsupportedSource, match=words) as refused:
        web.fetch(url, "a")
    assert "secret" not in str(refused.value)


def test_a_line_break_in_a_link_is_no_second_request(server: WebServer, web: Web) -> None:
    server.way("/a.png", answer(PICTURE))
    server.asked.clear()
    web.fetch(server.url("/a.png?x=\r\nEvil: 1"), "a")
    assert "\r\nEvil" not in server.asked[0]


def test_redirects_are_followed_up_to_the_limit(server: WebServer, web: Web) -> None:
    server.way("/a.png", answer(PICTURE))
    server.way("/1", redirect("/a.png", "308 Permanent Redirect"))
    server.way("/2", redirect(server.url("/1")))
    assert web.fetch(server.way("/3", redirect("2", "303 See Other")), "a") == PICTURE
    with pytest.raises(SourceRefused, match=r"more than 3 redirects \(SIGHTLINE_MAX_REDIRECTS\)"):
        web.fetch(server.way("/4", redirect("/3")), "a")
    with pytest.raises(SourceRefused, match="more than 3 redirects"):
        web.fetch(server.way("/loop", redirect("/loop")), "a")


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("http://127.0.0.2:{port}/a.png", ForbiddenAddress),
        ("//[::1]:{port}/a.png", ForbiddenAddress),
        ("http://169.254.169.254/latest/meta-data/", ForbiddenAddress),
        ("http://2130706433:{port}/a.png", ForbiddenAddress),
        ("http://[::ffff:169.254.169.254]/", ForbiddenAddress),
        ("file:///etc/passwd", SourceRefused),
        ("gopher://127.0.0.1/x", SourceRefused),
        ("http://user:pw@127.0.0.1:{port}/a.png", UnsupportedSource),
        ("http://[", SourceRefused),
    ],
)
def test_a_redirect_is_checked_like_the_link_itself(
    server: WebServer, web: Web, place: str, error: type[ItemError]
) -> None:
    server.way("/a.png", answer(PICTURE))
    server.asked.clear()
    with pytest.raises(error, match=r"^a: "):
        web.fetch(server.way("/out", redirect(place.format(port=server.port))), "a")
    assert [line.split(" ")[1] for line in server.asked] == ["/out"]


def test_a_name_is_looked_up_once_and_its_address_kept(server: WebServer) -> None:
    """The resolver changes its answer each time, as one does that means to get past a check."""
    asked = []

    def look_up(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) % 2 else ["169.254.169.254"]

    url = server.way("/a.png", answer(PICTURE)).replace("127.0.0.1", "shop.internal")
    fickle = Web(10_000, LIMITS, ["shop.internal"], look_up)
    assert fickle.fetch(url, "a") == PICTURE
    assert asked == ["shop.internal"]
    with pytest.raises(ForbiddenAddress, match="link-local"):
        fickle.fetch(url, "a")


def test_the_next_address_is_tried_where_one_does_not_answer(server: WebServer) -> None:
    url = server.way("/a.png", answer(PICTURE)).replace("127.0.0.1", "shop.internal")
    two = Web(10_000, LIMITS, ["shop.internal"], lambda *_: ["127.0.0.3", "127.0.0.1"])
    assert two.fetch(url, "a") == PICTURE


def test_content_up_to_the_limit_is_taken_and_a_byte_more_refused(server: WebServer, web: Web) -> None:
    exact = bytes(10_000)
    assert web.fetch(server.way("/exact", answer(exact)), "a") == exact
    with pytest.raises(TooManyBytes, match="10,001 bytes; SIGHTLINE_MAX_BYTES admits 10,000"):
        web.fetch(server.way("/more", answer(exact + b"x")), "a")
    with pytest.raises(TooManyBytes, match="more than 10,000 bytes"):
        web.fetch(server.way("/unannounced", b"HTTP/1.0 200 OK\r\n\r\n" + exact + b"x"), "a")
    with pytest.raises(TooManyBytes, match="1,099,511,627,776 bytes"):
        web.fetch(server.way("/boast", answer(b"", length=2**40)), "a")


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",  # a chunk's size that never ends
        b"HTTP/1.1 200 OK\r\nX-Endless: ",
        b"HTTP/1.1 200 ",
    ],
    ids=["body", "chunk size", "header", "status"],
)
def test_an_endless_answer_is_given_up(server: WebServer, web: Web, head: bytes) -> None:
    with pytest.raises((TooManyBytes, SourceUnavailable)):
        web.fetch(server.way("/endless", server.drip(head, b"1" * 65536, 0.001)), "a")


@pytest.mark.parametrize(
    "head", [b"", b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"]
)
def test_a_source_that_drips_is_given_up_when_its_time_is_over(server: WebServer, head: bytes) -> None:
    web = Web(10_000, WebLimits(seconds=1, idle_seconds=30), ["127.0.0.1"])
    with pytest.raises(SourceUnavailable, match=r"did not arrive within 1 s \(SIGHTLINE_FETCH_SECONDS\)"):
        web.fetch(server.way("/drip", server.drip(head, b"x", 0.05)), "a")


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nabc"])
def test_a_source_that_falls_silent_is_given_up(server: WebServer, head: bytes) -> None:
    web = Web(10_000, WebLimits(seconds=60, idle_seconds=0.3), ["127.0.0.1"])
    with pytest.raises(
        SourceUnavailable, match=r"nothing came from 127\.0\.0\.1 for 0\.3 s \(SIGHTLINE_FETCH_IDLE_SECONDS\)"
    ):
        web.fetch(server.way("/silent", server.drip(head, b"", 60)), "a")


def test_a_slow_source_within_its_time_is_taken(server: WebServer) -> None:
    def slowly(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
        for byte in b"slowly":
            connection.sendall(bytes([byte]))

    assert Web(10_000, WebLimits(20, 10), ["127.0.0.1"]).fetch(server.way("/slowly", slowly), "a") == b"slowly"


def test_packed_content_is_refused_packed(server: WebServer, web: Web) -> None:
    """A bomb of a few kilobytes; nothing here unpacks it."""
    assert len(packed(5)) < 10_000
    with pytest.raises(SourceRefused, match=r"sent packed \(gzip\)"):
        web.fetch(server.way("/bomb", packed(5)), "a")


def test_content_shorter_than_announced_is_no_content(server: WebServer, web: Web) -> None:
    with pytest.raises(SourceUnavailable, match=r"ended before all of it had come: 100 of [\d,]+ bytes are missing"):
        web.fetch(server.way("/short", answer(PICTURE, length=len(PICTURE) + 100)), "a")
    with pytest.raises(SourceUnavailable, match="ended before all of it had come"):
        web.fetch(server.way("/chunk", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc"), "a")


def test_content_longer_than_announced_ends_where_it_was_announced_to(server: WebServer, web: Web) -> None:
    assert web.fetch(server.way("/long", answer(PICTURE + b"another answer", length=len(PICTURE))), "a") == PICTURE


@pytest.mark.parametrize(
    ("status", "error", "retryable"),
    [
        ("404 Not Found", NotFound, False),
        ("410 Gone", NotFound, False),
        ("401 Unauthorized", PermissionDenied, False),
        ("403 Forbidden", PermissionDenied, False),
        ("400 Bad Request", SourceRefused, False),
        ("204 No Content", SourceRefused, False),
        ("304 Not Modified", SourceRefused, False),
        ("302 Found", SourceRefused, False),  # without a place to go to
        ("429 Too Many Requests", SourceUnavailable, True),
        ("500 Internal Server Error", SourceUnavailable, True),
        ("503 Slow Down", SourceUnavailable, True),
    ],
)
def test_each_answer_has_its_name(
    server: WebServer, web: Web, status: str, error: type[ItemError], retryable: bool
) -> None:
    with pytest.raises(error, match=rf"^a: http://127.*{status}") as refused:
        web.fetch(server.way("/status", answer(b"", status)), "a")
    assert refused.value.retryable is retryable


def test_a_signed_link_that_expired_is_told_from_one_that_is_refused(server: WebServer, web: Web) -> None:
    url = server.way("/signed", answer(b"", "403 Forbidden"))
    with pytest.raises(
        LinkExpired, match=r"signed link http://\S+/signed\?\.\.\. expired on 2020-01-02 at 03:05 UTC \(403"
    ):
        web.fetch(f"{url}?X-Amz-Date=20200102T030405Z&X-Amz-Expires=60&X-Amz-Signature=secret", "a")
    with pytest.raises(PermissionDenied) as refused:
        web.fetch(f"{url}?X-Amz-Date=20200102T030405Z&X-Amz-Expires=999999999&X-Amz-Signature=secret", "a")
    assert "secret" not in str(refused.value)


def test_what_is_no_http_and_a_closed_port_are_worth_another_try(server: WebServer, web: Web) -> None:
    with pytest.raises(SourceUnavailable, match=r"fetching http.* failed"):
        web.fetch(server.way("/noise", b"SSH-2.0-OpenSSH_9.9\r\n"), "a")
    with pytest.raises(SourceUnavailable, match=r"fetching http.* failed"):
        web.fetch(server.way("/nothing", b""), "a")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(SourceUnavailable, match="Connection refused"):
        web.fetch(f"http://127.0.0.1:{port}/a.png", "a")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
def test_tls_is_verified_against_the_name_of_the_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, pem = certificate(tmp_path, "shop.internal")
    with serving(context) as server:
        server.way("/a.png", answer(PICTURE))
        server.way("/down", redirect("http://shop.internal/a.png"))

        def web() -> Web:
            return Web(10_000, WebLimits(10, 5), ["shop.internal", "other.internal"], lambda *_: ["127.0.0.1"])

        with pytest.raises(SourceRefused, match=r"certificate of shop\.internal is not to be trusted"):
            web().fetch(server.url("/a.png", "shop.internal"), "a")
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        assert web().fetch(server.url("/a.png", "shop.internal"), "a") == PICTURE
        assert f"Host: shop.internal:{server.port}" in server.asked[-1]
        with pytest.raises(SourceRefused, match=r"certificate of other\.internal .*mismatch"):
            web().fetch(server.url("/a.png", "other.internal"), "a")
        with pytest.raises(SourceRefused, match="redirects from https to http"):
            web().fetch(server.url("/down", "shop.internal"), "a")
