"""`python -m pie_bakery`: build inferlets, and prepare what Python ones run in.

It ends with status 69 (EX_UNAVAILABLE) when a toolchain is missing, with 1 after any other failure.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
from pie_wire.config import pie_home
from pie_wire.errors import PieError, Unsupported

from pie_bakery.commands import build, check, new
from pie_bakery.python_runtime import prepare_python_runtime


class Bakery(click.Group):
    """Shows typed errors as one line."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except PieError as exc:
            click.echo(f"error: {exc.message}", err=True)
            sys.exit(os.EX_UNAVAILABLE if isinstance(exc, Unsupported) else 1)


@click.group(cls=Bakery)
def main() -> None:
    """Prepare and build inferlets."""


@main.command()
@click.option("--home", type=click.Path(path_type=Path), default=None, help="Folder of Pie's data; default PIE_HOME.")
def runtime(home: Path | None) -> None:
    """Build and compile the component that runs Python source, unless it is there already."""
    click.echo(prepare_python_runtime(home or pie_home(), lambda line: click.echo(line, err=True)))


main.add_command(new)
main.add_command(build)
main.add_command(check)

if __name__ == "__main__":
    main(prog_name="bakery")
