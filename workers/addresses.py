"""Which addresses a worker may connect to for a source that somebody else named."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator, Sequence

from workers.errors import ForbiddenAddress, NotFound, SourceUnavailable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], Sequence[str]]
"""From a host and a port to numeric addresses. Raises OSError."""

_NEVER: dict[str, tuple[Network, ...]] = {
    "unspecified": tuple(map(ipaddress.ip_network, ("0.0.0.0/8", "::/128"))),
    "link-local": tuple(map(ipaddress.ip_network, ("169.254.0.0/16", "fe80::/10"))),
    # Clouds hand out credentials there: Alibaba, Azure, Oracle, AWS by IPv6 (169.254.169.254 is link-local)
    "a cloud's metadata": tuple(
        map(ipaddress.ip_network, ("100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32", "fd00:ec2::254/128"))
    ),
}
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_UNICAST = ipaddress.IPv6Network("2000::/3")
"""All that is given out for the public internet (RFC 4291)."""


class AllowedHosts:
    """Hosts of the operator's own, whose addresses may be private.

    Args:
        entries: a name, a name with a port, an address, or a range such as 10.1.0.0/16.

    Raises:
        ValueError: an entry is none of these.
    """

    def __init__(self, entries: Sequence[str]) -> None:
        self._ranges: list[Network] = []
        self._hosts: set[tuple[str, int | None]] = set()
        for entry in entries:
            try:
                self._ranges.append(ipaddress.ip_network(entry.strip("[]"), strict=True))
            except ValueError:
                self._hosts.add(_host_and_port(entry))

    def admits(self, host: str, port: int, address: Address) -> bool:
        """Whether a host was named, or lies in a range that was."""
        named = (host, None) in self._hosts or (host, port) in self._hosts
        return named or any(address.version == net.version and address in net for net in self._ranges)


def resolve(host: str, port: int) -> list[str]:
    """What the system's resolver says, each address once. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def admitted(host: str, port: int, allowed: AllowedHosts, name: str, look_up: Resolve = resolve) -> list[str]:
    """The addresses of a host that may be connected to, asked for once: connect to these and ask no more.

    Args:
        host: in small letters, as the URL has it.
        port: of the URL.
        allowed: hosts that may be private.
        name: of the item, for messages.
        look_up: the resolver.

    Raises:
        ItemError: ForbiddenAddress if it has none; NotFound if there is no such host; SourceUnavailable if the resolver
            does not answer.
    """
    try:
        found = look_up(host, port)
    except socket.gaierror as error:
        if error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)):
            raise NotFound(f"{name}: there is no host {host}") from error
        raise SourceUnavailable(f"{name}: looking up {host} failed: {error.strerror}") from error
    except (OSError, UnicodeError) as error:
        raise SourceUnavailable(f"{name}: looking up {host} failed: {error}") from error
    good, reasons = [], []
    for text in found:
        reason = why_refused(text, host, port, allowed)
        if reason is None:
            good.append(text)
        else:
            reasons.append(f"{text} is {reason}")
    if not good:
        raise ForbiddenAddress(
            f"{name}: the worker may not connect to {host}: {'; '.join(reasons) or 'it has no address'}"
            + (
                ""
                if any("never" in reason for reason in reasons)
                else " (SIGHTLINE_ALLOWED_HOSTS where the worker runs)"
            )
        )
    return good


def why_refused(text: str, host: str, port: int, allowed: AllowedHosts) -> str | None:
    """Why an address may not be connected to, in words, or None."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return "no plain address"
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        return "bound to a network interface, which is never admitted"
    reasons = [found for inner in _all_in(address) if (found := _nature(inner)) is not None]
    never = next((reason for reason in reasons if "never" in reason), None)
    if never is not None or not reasons:
        return never
    return None if allowed.admits(host, port, address) else reasons[0]


def _all_in(address: Address) -> Iterator[Address]:
    """An address and the IPv4 addresses that a gateway would reach through it (RFC 4291, 3056, 4380, 6052)."""
    yield address
    if isinstance(address, ipaddress.IPv4Address):
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    number = int(address)
    if address in _NAT64 or (number >> 32 == 0 and number > 1):  # IPv4-compatible, ::a.b.c.d
        yield ipaddress.IPv4Address(number & 0xFFFFFFFF)


def _nature(address: Address) -> str | None:
    """What an address is, if it is not one of the public internet."""
    for kind, networks in _NEVER.items():
        if any(address.version == net.version and address in net for net in networks):
            return f"{kind}, which is never admitted"
    if address.is_multicast or str(address) == "255.255.255.255":
        return "of many hosts, which is never admitted"
    if address.is_loopback:
        return "loopback"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None or address.sixtofour is not None or address in _NAT64:
            return None  # judged by the address in it
        if address not in _UNICAST:
            return "private or reserved"
    return None if address.is_global else "private or reserved"


def _host_and_port(entry: str) -> tuple[str, int | None]:
    host, colon, port = entry.strip().lower().rpartition(":")
    if not colon:
        host, port = port, ""
    bare = host.strip("[]").rstrip(".")
    if not bare or "/" in bare or "*" in bare or (port and not (port.isdigit() and 0 < int(port) < 65536)):
        raise ValueError(
            f"{entry!r} is no host: give a name such as images.internal or images.internal:9000, an address, or a range"
            " such as 10.1.0.0/16"
        )
    return bare, int(port) if port else None
