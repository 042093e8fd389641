"""`python -m pie_runner`: run one runner in the foreground."""

from __future__ import annotations

import os
import sys

import click
import structlog
from pie_wire import logs
from pie_wire.config import load, options
from pie_wire.errors import PieError
from pie_wire.process import Shutdown, die_with_parent

from pie_runner.config import RunnerConfig

SWITCH_SECONDS = 0.0005
"""After which a worker thread that runs Python gives way to the loop, which gives way at every call into C and at every
message: with the usual 5 ms it would wait that long each time."""


@click.command()
@options(RunnerConfig)
def main(**flags: object) -> None:
    """The service that runs inferlets: Wasm components and Python programs, next to the model."""
    try:
        config = load(RunnerConfig, "runner", flags=flags)
    except PieError as exc:
        raise click.ClickException(exc.message) from exc
    logs.setup("runner", level=config.log_level, form=config.log_format, name=config.name)
    if os.environ.get("PIE_PARENT"):
        die_with_parent()
    sys.setswitchinterval(SWITCH_SECONDS)
    shutdown = Shutdown()
    from pie_runner.service import RunnerService

    try:
        service = RunnerService(config, shutdown)
    except PieError as exc:
        structlog.get_logger("pie.runner").error("cannot run", code=exc.code, reason=exc.message)
        sys.exit(1)
    try:
        service.run()
    finally:
        service.close()


if __name__ == "__main__":
    main()
