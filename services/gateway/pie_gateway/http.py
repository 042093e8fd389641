"""The HTTP front: OpenAI-shaped routes over the same core path as any client, and health."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Generator

import uvicorn
from pie_wire.errors import BadRequest, Unavailable
from starlette.applications import Starlette
from starlette.routing import Route

from pie_gateway.chat_route import ChatRoute
from pie_gateway.config import GatewayConfig
from pie_gateway.core import GatewayCore
from pie_gateway.health import HealthRoutes

STOP_WITHIN = 5.0
MAX_REQUESTS = 1024


def application(config: GatewayConfig, core: GatewayCore, soon: Callable[[], None]) -> Starlette:
    """The routes. `soon` lets what the core has queued leave."""
    chat = ChatRoute(config, core, soon)
    health = HealthRoutes(core)
    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat.completions, methods=["POST"]),
            Route("/v1/models", health.models, methods=["GET"]),
            Route("/healthz", health.healthz, methods=["GET"]),
        ]
    )


class _Server(uvicorn.Server):
    """uvicorn inside a loop whose signals belong to the service."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class HttpFront:
    """The server, in the same event loop as the core."""

    def __init__(self, config: GatewayConfig, core: GatewayCore, soon: Callable[[], None]) -> None:
        self._config = config
        self._app = application(config, core, soon)
        self._server: uvicorn.Server | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Listen. Returns the address, as a URL.

        Raises:
            Unavailable: the port is taken. BadRequest: there is no such address.
        """
        host, port = self._config.http_host, self._config.http_port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError as exc:
            sock.close()
            hint = f"HTTP address {host}:{port} cannot be had ({exc.strerror}): choose another with --http-port"
            raise (BadRequest(hint) if isinstance(exc, socket.gaierror) else Unavailable(hint)) from exc
        config = uvicorn.Config(
            self._app,
            log_config=None,
            access_log=False,
            limit_concurrency=MAX_REQUESTS,
            lifespan="off",
            timeout_graceful_shutdown=int(STOP_WITHIN),
            timeout_keep_alive=30,
        )
        self._server = server = _Server(config)
        self._task = asyncio.create_task(self._serve(server, sock))
        real = sock.getsockname()[1]
        return f"http://[{host}]:{real}" if family == socket.AF_INET6 else f"http://{host}:{real}"

    async def stop(self) -> None:
        """Finish open requests, for a few seconds at most."""
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await self._task
            self._server = self._task = None

    async def _serve(self, server: uvicorn.Server, sock: socket.socket) -> None:
        with sock:
            await server.serve(sockets=[sock])
