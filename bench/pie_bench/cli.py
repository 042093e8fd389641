"""The commands of `pie bench`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
from pie_zmq.transport import default_endpoint

from pie_bench import engine as engine_bench
from pie_bench import runner as runner_bench
from pie_bench.serve import Workload, measure


@click.group()
def bench() -> None:
    """Measure a running stack (`serve`; `pie up` first) or the engine (`engine`) or runner (`runner`) by itself."""


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Also keep the JSON in this file.")
@click.option("--repetitions", type=click.IntRange(1), default=5, show_default=True, help="Rounds per case.")
def serve(as_json: bool, output: Path | None, repetitions: int) -> None:
    """Streams through the whole stack: 1, 16 and 64, 128 tokens in, 64 out."""
    report = asyncio.run(measure(default_endpoint(), Workload(repetitions=repetitions), _progress))
    report.show(as_json=as_json, output=output)


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Also keep the JSON in this file.")
@click.option("--model", default="smollm2", show_default=True, help="Name of a pulled model, or a folder.")
@click.option("--case", "cases", multiple=True, help="Only this case or group of figures; may be repeated.")
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True, help="Rounds per case.")
@click.option("--threads", type=click.IntRange(0), default=0, show_default=True, help="0: as the engine chooses.")
@click.option("--vs", "rival", type=click.Choice(["transformers"]), help="Also run plain `generate` beside it.")
def engine(
    as_json: bool,
    output: Path | None,
    model: str,
    cases: tuple[str, ...],
    rounds: int,
    threads: int,
    rival: str | None,
) -> None:
    """Steps of the engine over what their linear layers alone take, in the same run."""
    report = engine_bench.measure(model, cases, rounds=rounds, threads=threads, rival=bool(rival), progress=_progress)
    report.show(as_json=as_json, output=output)


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Also keep the JSON in this file.")
@click.option("--case", "cases", multiple=True, help="Only this measurement, or all that begin with it and a dot.")
@click.option("--rounds", type=click.IntRange(1), default=6, show_default=True, help="Samples per case.")
@click.option("--model", default="smollm2", show_default=True, help="Name of a pulled model: for `tax`.")
def runner(as_json: bool, output: Path | None, cases: tuple[str, ...], rounds: int, model: str) -> None:
    """Host calls, launches and memory of programs in three languages, and what a program costs per token."""
    report = runner_bench.measure(cases, model=model, rounds=rounds, progress=_progress)
    report.show(as_json=as_json, output=output)


def _progress(text: str) -> None:
    click.echo(text, err=True)
