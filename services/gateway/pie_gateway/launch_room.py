"""How many launches may wait, and how much they may bring with them."""

from __future__ import annotations

from pie_wire.errors import Overloaded
from pie_wire.messages.gateway import Launch
from pie_wire.shares import Shares

INPUT_BYTES = 512 << 20
"""Inputs of all launches that wait."""


class LaunchRoom:
    """Room for launches that no runner has confirmed yet, shared by tenants."""

    def __init__(self, launches: int) -> None:
        self._launches = Shares(launches)
        self._inputs = Shares(INPUT_BYTES)

    def enter(self, tenant: str, launch: Launch) -> None:
        """Raises Overloaded if the tenant's share is used up."""
        if not self._launches.take(tenant):
            raise Overloaded(
                f"{self._launches.of(tenant)} launches of tenant {tenant} are waiting already, its share of "
                f"{self._launches.total} (`queue` of the gateway): try again later"
            )
        if not self._inputs.take(tenant, _size(launch)):
            self._launches.give_back(tenant)
            raise Overloaded(
                f"launches of tenant {tenant} are waiting with inputs of {self._inputs.of(tenant) >> 20} MiB already, "
                f"its share of {INPUT_BYTES >> 20} MiB: try again later, or send large data as messages"
            )

    def leave(self, tenant: str, launch: Launch) -> None:
        """It waits no more."""
        self._launches.give_back(tenant)
        self._inputs.give_back(tenant, _size(launch))


def _size(launch: Launch) -> int:
    return len(launch.input)
