"""Patterns of hosts that programs may talk to: the entries of `http` in manifests and policies.

| pattern | covers |
|---|---|
| `api.example.com` | that name |
| `*.example.com` | every name below it, not itself |
| `*` | every name |
| `192.0.2.7`, `[2001:db8::1]` | that address |
| `10.0.0.0/8`, `[fd00::/8]` | the addresses of that network |

Each may end in `:PORT`, or `:*` for every port; without, ports 80 and 443 are meant.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pie_wire.errors import BadField

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

WEB_PORTS = frozenset({80, 443})
MAX_PATTERN = 300

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@dataclass(frozen=True)
class HostPattern:
    """One pattern; `network` is set for addresses, `name` for names."""

    text: str
    name: str
    network: Network | None
    ports: frozenset[int] | Literal["all"]

    @classmethod
    def parse(cls, text: str) -> HostPattern:
        """Read a pattern. Raises BadField, which says what is expected."""
        host, port = _split(text.strip().lower())
        if not host or len(text) > MAX_PATTERN:
            raise _bad(text)
        network = _network(host, text)
        if network is None and not _is_name_pattern(host):
            raise _bad(text)
        return cls(text, "" if network else host.rstrip("."), network, _ports(port, text))

    def covers_name(self, name: str, port: int) -> bool:
        """`name` is in lower case, without a final dot."""
        if not self.name or not self._covers_port(port):
            return False
        if self.name.startswith("*."):
            return name.endswith(self.name[1:]) and len(name) > len(self.name) - 1
        return self.name in ("*", name)

    def covers_address(self, address: Address, port: int) -> bool:
        return (
            self.network is not None
            and self.network.version == address.version
            and address in self.network
            and self._covers_port(port)
        )

    def _covers_port(self, port: int) -> bool:
        return self.ports == "all" or port in self.ports


def covers(patterns: Iterable[HostPattern], host: str, port: int) -> bool:
    """Whether a host, a name or an address as it stands in a URL, is covered."""
    address = as_address(host)
    if address is not None:
        return any(pattern.covers_address(address, port) for pattern in patterns)
    return any(pattern.covers_name(host, port) for pattern in patterns)


def as_address(host: str) -> Address | None:
    """The address that a host is written as, None if it is a name."""
    try:
        return plain(ipaddress.ip_address(host.strip("[]").partition("%")[0]))
    except ValueError:
        return None


def plain(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, if it does: such addresses must not lead around a rule."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.sixtofour is not None:
            return address.sixtofour
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def is_public(address: Address) -> bool:
    """Whether it belongs to the open internet: not to this machine, its network, or anything reserved."""
    address = plain(address)
    return address.is_global and not address.is_multicast and not address.is_reserved


def _split(text: str) -> tuple[str, str]:
    """Host and port; the port is empty without one."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise _bad(text)
        return host, rest[1:]
    if text.count(":") > 1:
        return text, ""
    host, colon, port = text.partition(":")
    if colon and not port:
        raise _bad(text)
    return host, port


def _network(host: str, text: str) -> Network | None:
    try:
        return ipaddress.ip_network(host)
    except ValueError as exc:
        if "/" in host or ":" in host:
            raise _bad(text, str(exc)) from exc
        return None


def _is_name_pattern(host: str) -> bool:
    if host == "*":
        return True
    labels = host.removeprefix("*.").rstrip(".").split(".")
    return all(_LABEL.fullmatch(label) for label in labels) and not labels[-1].isdigit()


def _ports(port: str, text: str) -> frozenset[int] | Literal["all"]:
    if not port:
        return WEB_PORTS
    if port == "*":
        return "all"
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise _bad(text, f"{port!r} is no port")
    return frozenset({int(port)})


def _bad(text: str, why: str = "") -> BadField:
    reason = f" ({why})" if why else ""
    return BadField(
        f"{text[:MAX_PATTERN]!r} is no host pattern{reason}: expected a name, *.NAME, an address or a network, and "
        ":PORT, such as api.example.com, *.example.com:8443 or 10.0.0.0/8:*; names outside ASCII in their xn-- form"
    )
