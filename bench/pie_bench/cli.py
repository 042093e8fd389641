"""The commands of `pie bench`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
from pie_zmq.transport import default_endpoint

from pie_bench.serve import Workload, measure


@click.group()
def bench() -> None:
    """Measure a running stack (`pie up` first)."""


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Also keep the JSON in this file.")
@click.option("--repetitions", type=click.IntRange(1), default=5, show_default=True, help="Rounds per case.")
def serve(as_json: bool, output: Path | None, repetitions: int) -> None:
    """Streams through the whole stack: 1, 16 and 64, 128 tokens in, 64 out."""
    report = asyncio.run(measure(default_endpoint(), Workload(repetitions=repetitions), _progress))
    report.show(as_json=as_json, output=output)


def _progress(text: str) -> None:
    click.echo(text, err=True)
