"""The gateway's shell: sockets, the event log file, the HTTP server and the clock around the core."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import structlog
from pie_wire import garbage
from pie_wire.errors import PeerLost
from pie_wire.hub import Hub
from pie_wire.membership import KVSTORE, Membership
from pie_wire.process import identity
from pie_wire.tenants import TenantLimits, read_tenants
from pie_wire.transport import AsyncTransport

from pie_gateway.config import GatewayConfig
from pie_gateway.core import CLIENTS, RUNNERS, GatewayCore
from pie_gateway.http import HttpFront
from pie_gateway.policy import Policy
from pie_gateway.sqlite_log import SqliteEventLog

FAREWELL = 0.05
"""Seconds for what is said last."""

log = structlog.get_logger("pie.gateway")


async def serve(config: GatewayConfig, stop: asyncio.Event) -> None:
    """Run a gateway until `stop` is set.

    Raises:
        LogError: the event log failed. PieError: an endpoint, the HTTP port or the log cannot be had, or the
            policy is not one.
    """
    policy = Policy.load(config.policy, users_grant=config.users_grant)
    tenants = read_tenants(config.tenants, TenantLimits(processes=config.tenant_processes))
    hub = Hub(identity("gateway", config.name), time.monotonic)
    transport = AsyncTransport(hub)
    event_log = SqliteEventLog(Path(config.data) / f"{config.name}.sqlite")
    try:
        membership = Membership(hub, endpoint=config.runners_endpoint, info={"clients": config.endpoint})
        core = GatewayCore(config, hub, event_log, membership, time.time, policy, tenants, transport)
        for endpoint in (config.endpoint, config.runners_endpoint):
            if endpoint.startswith("ipc://"):
                Path(endpoint.removeprefix("ipc://")).parent.mkdir(parents=True, exist_ok=True)
        transport.bind(CLIENTS, config.endpoint)
        transport.bind(RUNNERS, config.runners_endpoint)
        transport.dial(KVSTORE, config.kvstore_endpoint)
        transport.start()
        http = HttpFront(config, core, transport.soon) if config.http_host else None
        if http is not None:
            core.http = await http.start()
            membership.update(http=core.http)
        garbage.settle()
        log.info("ready", clients=config.endpoint, runners=config.runners_endpoint, http=core.http)
        try:
            await _serving(transport, core, stop)
        finally:
            if http is not None:
                await http.stop()
        core.leave()
        if core.fatal is not None:
            raise core.fatal
        membership.leave()
        transport.soon()
        await asyncio.sleep(FAREWELL)
    finally:
        transport.close(PeerLost(f"gateway {config.name} is shutting down"))
        event_log.close()


async def _serving(transport: AsyncTransport, core: GatewayCore, stop: asyncio.Event) -> None:
    """Until asked to stop, or the core has failed: a defect in its tick is raised here."""
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def tick() -> None:
        if failed.done():
            return
        try:
            core.tick()
        except Exception as exc:  # noqa: BLE001 - it is raised where it ends the service
            failed.set_exception(exc)
        else:
            if core.fatal is not None:
                failed.set_result(None)

    transport.on_tick(tick)
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((failed, stopped), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
    if failed.done():
        failed.result()
