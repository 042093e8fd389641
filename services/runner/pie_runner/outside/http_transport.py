"""Connections of one process. A name is resolved once, its addresses are checked, and one of those is connected to: a
name that means something else a moment later (DNS rebinding) leads nowhere."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import cast

import httpcore
import httpx
from pie_wire.errors import Unavailable
from pie_wire.hosts import Address, as_address

from pie_runner.outside.http_rights import HttpRights

Resolve = Callable[[str, int], Awaitable[list[Address]]]
"""The addresses of a name. Raises OSError."""

KEEP_SECONDS = 15.0
KEEP_CONNECTIONS = 8
MAX_ADDRESSES = 16


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects to addresses that the rights admit."""

    def __init__(self, rights: HttpRights, resolve: Resolve) -> None:
        self._rights = rights
        self._resolve = resolve
        # Its stub depends on whether anyio is there, which httpx brings.
        self._inner: httpcore.AsyncNetworkBackend = httpcore.AnyIOBackend()  # pyright: ignore[reportAttributeAccessIssue]

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        literal = as_address(host)
        try:
            addresses = [literal] if literal is not None else await self._resolve(host, port)
        except OSError as exc:
            raise Unavailable(f"{host} is not known: {exc.strerror or exc}") from exc
        if not addresses:
            raise Unavailable(f"{host} has no address")
        admitted = self._rights.admitted(host, port, addresses[:MAX_ADDRESSES])
        failure: Exception | None = None
        for address in admitted:
            try:
                return await self._inner.connect_tcp(str(address), port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                failure = exc
        raise Unavailable(f"{host}:{port} cannot be connected to: {failure}") from failure

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise httpcore.UnsupportedProtocol("no Unix sockets")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class CheckedTransport(httpx.AsyncBaseTransport):
    """httpx over a pool of such connections: HTTP/1.1, no proxies, certificates verified."""

    def __init__(self, rights: HttpRights, resolve: Resolve, tls: ssl.SSLContext, connections: int) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=connections,
            max_keepalive_connections=min(connections, KEEP_CONNECTIONS),
            keepalive_expiry=KEEP_SECONDS,
            network_backend=CheckedBackend(rights, resolve),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        answer = await self._pool.handle_async_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=cast("httpx.AsyncByteStream", request.stream),
                extensions=request.extensions,
            )
        )
        return httpx.Response(answer.status, headers=answer.headers, stream=_Stream(answer))

    async def aclose(self) -> None:
        await self._pool.aclose()


class _Stream(httpx.AsyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._answer.aiter_stream():
            yield piece

    async def aclose(self) -> None:
        await self._answer.aclose()
