"""Places on the loop aside that tenants share: those who wait for one take turns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from pie_wire.lines import Lines
from pie_wire.shares import Shares


class Turnstile:
    """All methods belong to the loop aside."""

    def __init__(self, places: int) -> None:
        self._shares = Shares(places)
        self._lines: Lines[asyncio.Future[None]] = Lines()

    def held(self, tenant: str) -> int:
        """Places that a tenant has."""
        return self._shares.of(tenant)

    @asynccontextmanager
    async def place(self, tenant: str) -> AsyncGenerator[None]:
        """Wait for a place of the tenant's share, and have it as long as the block runs."""
        await self.enter(tenant)
        try:
            yield
        finally:
            self.leave(tenant)

    async def enter(self, tenant: str) -> None:
        """Wait for a place, which the caller gives back with `leave`."""
        if tenant not in self._lines and self._shares.take(tenant):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines.add(tenant, turn)
        try:
            await turn
        except asyncio.CancelledError:
            self._lines.discard(tenant, turn)
            if turn.done() and not turn.cancelled():
                self.leave(tenant)  # it was given a place at that very moment
            raise

    def leave(self, tenant: str) -> None:
        """Give a place back."""
        self._shares.give_back(tenant)
        while (admitted := self._lines.take(self._shares.taker)) is not None:
            turn, owner = admitted
            if turn.done():  # it has just been cancelled
                self._shares.give_back(owner)
            else:
                turn.set_result(None)
