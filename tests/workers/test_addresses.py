"""Which addresses a source may lie on."""

from __future__ import annotations

import socket

import pytest

from workers.addresses import AllowedHosts, Resolve, admitted, why_refused
from workers.errors import ForbiddenAddress, NotFound, SourceUnavailable

NOBODY = AllowedHosts([])
PRIVATE = ["127.0.0.1", "127.8.9.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "198.18.0.1", "240.0.0.1", "::1",
           "fd12:3456::1", "fec0::1", "::ffff:127.0.0.1", "::ffff:10.1.2.3", "64:ff9b::127.0.0.1", "64:ff9b::a00:1",
           "64:ff9b:1::1", "2002:7f00:1::", "2002:a00:1::1", "::127.0.0.1", "2001:0:808:808:0:0:f5ff:fffe"]  # fmt: skip
NEVER = ["169.254.169.254", "169.254.0.1", "fe80::1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::",
         "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "0.1.2.3", "::", "224.0.0.1", "ff02::1",
         "255.255.255.255", "fe80::1%eth0", "fd12::1%lo"]  # fmt: skip
PUBLIC = ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_refused_unless_the_operator_allows_the_host(address: str) -> None:
    assert why_refused(address, "shop.internal", 80, NOBODY) in {"loopback", "private or reserved"}
    assert why_refused(address, "shop.internal", 80, AllowedHosts(["Shop.Internal."])) is None
    assert why_refused(address, "shop.internal", 80, AllowedHosts(["shop.internal:80"])) is None
    assert why_refused(address, "shop.internal", 81, AllowedHosts(["shop.internal:80"])) is not None
    assert why_refused(address, "evil-shop.internal", 80, AllowedHosts(["shop.internal"])) is not None


@pytest.mark.parametrize("address", NEVER)
def test_metadata_and_link_local_addresses_are_refused_even_of_allowed_hosts(address: str) -> None:
    for allowed in (NOBODY, AllowedHosts(["shop.internal", "0.0.0.0/0", "::/0"])):
        assert "never" in (why_refused(address, "shop.internal", 80, allowed) or "")


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_admitted(address: str) -> None:
    assert why_refused(address, "shop.example", 80, NOBODY) is None


def test_a_range_admits_what_lies_in_it() -> None:
    allowed = AllowedHosts(["10.1.0.0/16", "fd12::/64", "[::1]"])
    assert [why_refused(text, "any", 80, allowed) is None for text in ("10.1.2.3", "10.2.0.1", "fd12::7", "fd13::7", "::1")] == [
        True, False, True, False, True,
    ]  # fmt: skip


@pytest.mark.parametrize("entry", ["", "http://host", "*.internal", "host:port", "host:0", "10.1.2.3/16", "a/b"])
def test_what_is_no_host_is_refused_as_a_setting(entry: str) -> None:
    with pytest.raises(ValueError, match="no host"):
        AllowedHosts([entry])


def test_of_many_addresses_only_the_good_ones_are_used() -> None:
    found = ["127.0.0.1", "8.8.8.8", "169.254.169.254", "1.1.1.1"]
    assert admitted("shop.example", 80, NOBODY, "a", lambda *_: found) == ["8.8.8.8", "1.1.1.1"]
    with pytest.raises(
        ForbiddenAddress, match=r"^a: .*shop\.example: 127\.0\.0\.1 is loopback .*SIGHTLINE_ALLOWED_HOSTS"
    ):
        admitted("shop.example", 80, NOBODY, "a", lambda *_: ["127.0.0.1"])
    with pytest.raises(ForbiddenAddress, match=r"169\.254\.1\.1 is link-local, which is never admitted$"):
        admitted("shop.example", 80, NOBODY, "a", lambda *_: ["169.254.1.1"])


def test_a_host_that_is_not_there_and_a_resolver_that_is_silent_are_told_apart() -> None:
    with pytest.raises(NotFound, match=r"^a: there is no host nowhere\.invalid"):
        admitted("nowhere.invalid", 80, NOBODY, "a", _failing(socket.EAI_NONAME))
    with pytest.raises(SourceUnavailable, match=r"looking up shop\.example failed"):
        admitted("shop.example", 80, NOBODY, "a", _failing(socket.EAI_AGAIN))


def _failing(number: int) -> Resolve:
    def look_up(host: str, port: int) -> list[str]:
        raise socket.gaierror(number, "so it is")

    return look_up
