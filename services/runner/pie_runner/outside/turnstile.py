"""Places on the loop aside that tenants share: those who wait for one take turns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from pie_wire.shares import Shares


class Turnstile:
    """All methods belong to the loop aside."""

    def __init__(self, places: int) -> None:
        self._shares = Shares(places)
        self._lines: dict[str, dict[asyncio.Future[None], None]] = {}
        """Who waits, by tenant in the order of turns, and first come first."""

    def held(self, tenant: str) -> int:
        """Places that a tenant has."""
        return self._shares.of(tenant)

    @asynccontextmanager
    async def place(self, tenant: str) -> AsyncGenerator[None]:
        """Wait for a place of the tenant's share, and have it as long as the block runs."""
        await self._enter(tenant)
        try:
            yield
        finally:
            self._leave(tenant)

    async def _enter(self, tenant: str) -> None:
        if tenant not in self._lines and self._shares.take(tenant):
            return
        turn = asyncio.get_running_loop().create_future()
        self._lines.setdefault(tenant, {})[turn] = None
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave(tenant)  # it was given a place at that very moment
            else:
                self._forget(tenant, turn)
            raise

    def _leave(self, tenant: str) -> None:
        self._shares.give_back(tenant)
        self._admit()

    def _admit(self) -> None:
        """Give free places away, one to each tenant in turn."""
        given = True
        while given:
            given = False
            for tenant in list(self._lines):
                if self._shares.take(tenant):
                    turn = next(iter(self._lines[tenant]))
                    line = self._lines.pop(tenant)
                    del line[turn]
                    if line:
                        self._lines[tenant] = line  # its next turn comes after those of all others
                    if turn.done():  # it has just been cancelled
                        self._shares.give_back(tenant)
                    else:
                        turn.set_result(None)
                    given = True

    def _forget(self, tenant: str, turn: asyncio.Future[None]) -> None:
        line = self._lines.get(tenant, {})
        line.pop(turn, None)
        if not line:
            self._lines.pop(tenant, None)
        self._admit()
