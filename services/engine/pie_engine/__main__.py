"""`python -m pie_engine --model FOLDER`: run an engine in the foreground."""

from __future__ import annotations

import os
import signal
import sys

import click
import structlog
from pie_wire import config as wire_config
from pie_wire import logs
from pie_wire.errors import PieError
from pie_wire.process import Shutdown, die_with_parent

from pie_engine.config import EngineConfig


@click.command()
@click.option(
    "--config", "file", type=click.Path(dir_okay=False), default=None, help="TOML file with a table [engine]."
)
@wire_config.options(EngineConfig)
def main(file: str | None, **flags: object) -> None:
    """The service that owns a model and its KV pages, and decodes for all runners."""
    try:
        config = wire_config.load(EngineConfig, "engine", file=file, flags=flags)
        config.check()
    except PieError as exc:
        raise click.ClickException(exc.message) from exc
    logs.setup("engine", level=config.log_level, form=config.log_format, name=config.name)
    if os.environ.get("PIE_PARENT"):
        die_with_parent()
    # Read when torch is loaded. Threads that spin while they wait cost a shared machine far more than waking them up.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # torch takes seconds to import: not before the flags are known to be good. Whoever is told to stop meanwhile has
    # nothing to take leave of.
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
    from pie_engine.service import serve

    try:
        serve(config, Shutdown())
    except PieError as exc:
        structlog.get_logger("pie.engine").error("cannot run", code=exc.code, reason=exc.message)
        sys.exit(1)


if __name__ == "__main__":
    main()
