"""`python -m pie_kvstore`: run kvstore in the foreground."""

from __future__ import annotations

import os
import sys

import click
import structlog
from pie_wire import logs
from pie_wire.config import options
from pie_wire.errors import PieError
from pie_wire.process import Shutdown, die_with_parent

from pie_kvstore import config as settings
from pie_kvstore.config import Config


@click.command()
@options(Config)
def main(**flags: object) -> None:
    """The service that owns Redis: members and leases, programs, process index, page ownership, snapshots."""
    try:
        config = settings.load(flags)
    except PieError as exc:
        raise click.ClickException(exc.message) from exc
    logs.setup("kvstore", level=config.log_level, form=config.log_format, name=config.name)
    if os.environ.get("PIE_PARENT"):
        die_with_parent()
    shutdown = Shutdown()
    from pie_kvstore.service import serve

    try:
        serve(config, shutdown)
    except PieError as exc:
        structlog.get_logger("pie.kvstore").error("cannot run", code=exc.code, reason=exc.message)
        sys.exit(1)


if __name__ == "__main__":
    main()
