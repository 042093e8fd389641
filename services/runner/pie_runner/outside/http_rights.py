"""Which hosts, and which addresses behind their names, a process may talk to."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from pie_wire.capabilities import Capabilities, Grants
from pie_wire.errors import Forbidden
from pie_wire.hosts import Address, HostPattern, covers, is_public, plain

LOCALHOST = "localhost"


class HttpRights:
    """Made once for a process, from what it was started with."""

    def __init__(self, capabilities: Capabilities) -> None:
        self._capabilities = capabilities

    def require(self, host: str, port: int) -> None:
        """Raise Forbidden unless a URL with this host may be asked for."""
        entry = host if port in (80, 443) else f"{host}:{port}"
        self._capabilities.require(
            lambda grants: covers(_patterns(grants), host, port),
            f"HTTP to {host}:{port}",
            f'http = ["{entry}"]',
            f"http={entry}",
        )

    def admitted(self, host: str, port: int, addresses: Sequence[Address]) -> list[Address]:
        """The addresses behind a host that may be connected to: those of the internet, and others as far as they are
        granted as addresses, so that a name cannot lead into the operator's network.

        Raises:
            Forbidden: none of them may.
        """
        found = [address for address in addresses if is_public(address) or self._granted(host, port, plain(address))]
        if not found:
            address = plain(addresses[0])
            entry = f"[{address}]" if address.version == 6 else str(address)
            raise Forbidden(
                f"{host} is {address}, which is not on the internet: such an address must itself be granted, as "
                f'`http = ["{entry}:{port}"]` or by its network, in the gateway\'s policy file or by '
                f"`pie run --allow http={entry}:{port}`"
            )
        return found

    def _granted(self, host: str, port: int, address: Address) -> bool:
        link: Capabilities | None = self._capabilities
        while link is not None:
            patterns = _patterns(link.granted)
            by_name = host == LOCALHOST and address.is_loopback
            if not any(
                pattern.covers_address(address, port)
                or (by_name and pattern.name == LOCALHOST and pattern.covers_name(host, port))
                for pattern in patterns
            ):
                return False
            link = link.parent
        return True


def _patterns(grants: Grants) -> Sequence[HostPattern]:
    return _parsed(tuple(grants.http))


@lru_cache(maxsize=1024)
def _parsed(texts: tuple[str, ...]) -> Sequence[HostPattern]:
    return [HostPattern.parse(text) for text in texts]
