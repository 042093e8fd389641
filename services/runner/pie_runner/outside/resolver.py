"""Names of hosts, looked up on threads that tenants share."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from pie_wire.hosts import Address

from pie_runner.outside.http_transport import Resolve
from pie_runner.outside.turnstile import Turnstile

THREADS = 16
"""Look-ups at once. One that hangs keeps its thread for as long as the system's resolver waits, whoever gives it up."""


def look_up(host: str, port: int) -> list[Address]:
    """As this machine resolves names. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    texts = dict.fromkeys(str(item[4][0]).partition("%")[0] for item in found)
    return [ipaddress.ip_address(text) for text in texts]


class Resolver:
    """Coroutines belong to the loop aside."""

    def __init__(self, look_up: Callable[[str, int], list[Address]] = look_up, threads: int = THREADS) -> None:
        self._look_up = look_up
        self._turnstile = Turnstile(threads)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="names")

    def of(self, tenant: str) -> Resolve:
        """The same for one tenant."""
        return partial(self.resolve, tenant)

    async def resolve(self, tenant: str, host: str, port: int) -> list[Address]:
        """Addresses of a host. Raises OSError."""
        await self._turnstile.enter(tenant)
        loop = asyncio.get_running_loop()
        try:
            looking = self._pool.submit(self._look_up, host, port)
        except RuntimeError as exc:
            self._turnstile.leave(tenant)
            raise OSError(f"no thread to look up {host}: {exc}") from exc

        def left(_: Future[list[Address]]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._turnstile.leave, tenant)

        looking.add_done_callback(left)
        return await asyncio.wrap_future(looking)
