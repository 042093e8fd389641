"""`python -m pie_gateway`: run a gateway."""

from __future__ import annotations

import asyncio
import sys

import click
import structlog
from pie_wire import config as wire_config
from pie_wire import logs
from pie_wire.errors import PieError
from pie_wire.process import Shutdown, die_with_parent

from pie_gateway.config import GatewayConfig
from pie_gateway.log import LogError
from pie_gateway.service import serve


@click.command()
@click.option(
    "--config", "file", type=click.Path(dir_okay=False), default=None, help="TOML file with a [gateway] table"
)
@wire_config.options(GatewayConfig)
def main(file: str | None, **flags: object) -> None:
    """Run a gateway until SIGTERM or Ctrl-C."""
    die_with_parent()
    logs.setup("gateway")
    log = structlog.get_logger("pie.gateway")
    try:
        config = wire_config.load(GatewayConfig, "gateway", file=file, flags=flags)
        logs.setup("gateway", level=config.log_level, name=config.name)
        asyncio.run(_run(config))
    except (PieError, LogError) as exc:
        log.error("stopped", reason=str(exc))
        sys.exit(1)


async def _run(config: GatewayConfig) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def ask_to_stop() -> None:
        loop.call_soon_threadsafe(stop.set)

    Shutdown(ask_to_stop)
    await serve(config, stop)


if __name__ == "__main__":
    main()
