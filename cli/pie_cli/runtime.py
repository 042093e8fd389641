"""`pie runtime`: what Python programs run in."""

from __future__ import annotations

import click

from pie_cli.home import pie_home


@click.group()
def runtime() -> None:
    """Prepare the runtime of Python programs."""


@runtime.command()
def prepare() -> None:
    """Build and compile the component that runs Python source: once, about 40 seconds; then nothing is to do."""
    from pie_bakery.python_runtime import prepare_python_runtime

    path = prepare_python_runtime(pie_home(), lambda line: click.echo(line, err=True))
    click.echo(path)
