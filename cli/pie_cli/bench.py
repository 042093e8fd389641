"""`pie bench`: measurements of a running stack. They lie beside the sources and are not part of an installation."""

from __future__ import annotations

from importlib import import_module
from typing import cast

import click
from pie_wire.errors import Unsupported


class BenchGroup(click.Group):
    """Hands everything on to `pie_bench`, if that is there."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return self._real().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self._real().get_command(ctx, cmd_name)

    def _real(self) -> click.Group:
        try:
            module = import_module("pie_bench.cli")
        except ModuleNotFoundError as exc:
            if exc.name is None or not exc.name.startswith("pie_bench"):
                raise
            raise Unsupported(
                "the benchmarks come with Pie's sources: run `pie bench` from an editable install"
            ) from exc
        return cast(click.Group, module.bench)


@click.group(cls=BenchGroup)
def bench() -> None:
    """Measure a running stack."""
