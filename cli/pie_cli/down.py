"""`pie down`: stop the stack of this Pie home."""

from __future__ import annotations

import os
import signal
import time

import click
from pie_wire.errors import Unavailable

from pie_cli.paths import StackPaths
from pie_cli.state import is_up, read_state
from pie_cli.supervisor import STAGES, STOP_TIMEOUT


@click.command()
@click.option("--force", is_flag=True, help="Kill the services instead of asking them to stop.")
def down(force: bool) -> None:
    """Stop the stack. Running programs end; what is stored stays."""
    paths = StackPaths.default()
    if not is_up(paths):
        click.echo("Pie is not running.", err=True)
        return
    state = read_state(paths)
    if state is None:
        raise Unavailable("the stack is just starting: try again in a moment")
    begun = time.monotonic()
    for _ in range(2 if force else 1):
        os.kill(state.supervisor, signal.SIGTERM)
        time.sleep(0.05)
    while is_up(paths):
        if time.monotonic() - begun > STOP_TIMEOUT * len(STAGES) + 5:
            os.kill(state.supervisor, signal.SIGKILL)
            raise Unavailable("the supervisor did not stop in time and was killed; its services end with it")
        time.sleep(0.02)
    click.echo(f"Pie is down ({time.monotonic() - begun:.1f} s).", err=True)
