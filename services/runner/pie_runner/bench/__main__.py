"""`python -m pie_runner.bench`: one measurement per call, in a process of its own, printed as one JSON object."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from pie_wire import garbage, logs
from pie_wire.errors import PieError, Unsupported

from pie_runner.bench import calls, launches, sampling
from pie_runner.bench.built import MISSING
from pie_runner.bench.figure import Figure
from pie_runner.bench.programs import GUESTS, PROGRAMS, SAMPLERS
from pie_runner.bench.stand import Stand, stand

Measurement = Callable[[Stand, int], list[Figure]]


def measurements() -> dict[str, Measurement]:
    """All of them by name; one may bring several figures."""
    found: dict[str, Measurement] = {"host-call": calls.host_call, "bare-call.tiny": calls.bare_call}
    for name in GUESTS:
        found[f"blocked-call.{name}"] = lambda bench, rounds, name=name: calls.blocked_call(bench, name, rounds)
        found[f"blocked-call-zmq.{name}"] = lambda bench, rounds, name=name: calls.blocked_call_zmq(bench, name, rounds)
        found[f"launch.{name}"] = lambda bench, rounds, name=name: launches.launch(bench, name, rounds)
        found[f"live.{name}"] = lambda bench, _rounds, name=name: launches.live(bench, name)
    for name in SAMPLERS:
        found[f"custom-sampler.{name}"] = lambda bench, rounds, name=name: sampling.custom_sampler(bench, name, rounds)
    return found


@click.group()
def main() -> None:
    """Measure the runner without the services around it."""
    logs.setup("bench", level="warning", form="auto", name="bench")


@main.command("list")
def list_measurements() -> None:
    """Names of the measurements."""
    _print({"measurements": list(measurements())})


@main.command()
@click.argument("name")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option(
    "--built",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder that keeps built guests from one measurement to the next; default: they are built again.",
)
def measure(name: str, rounds: int, built: Path | None) -> None:
    """Take one measurement. Without the toolchain that its guest needs: `skipped` says why, and there is no figure."""
    chosen = measurements().get(name)
    if chosen is None:
        raise click.ClickException(f"there is no measurement {name}; `list` shows them")
    try:
        with stand(built) as bench:
            garbage.settle()  # as the service does once it has started; this process is for one measurement
            _print({"figures": [asdict(figure) for figure in chosen(bench, rounds)], "skipped": ""})
    except Unsupported as exc:
        _print({"figures": [], "skipped": exc.message})
    except PieError as exc:
        raise click.ClickException(exc.message) from exc


@main.command()
@click.argument("name", type=click.Choice(list(PROGRAMS)))
def guest(name: str) -> None:
    """Write a guest as it is uploaded to standard output: a component or source. Without the toolchain that it needs,
    the status is 69 and standard error has the reason."""
    try:
        sys.stdout.buffer.write(PROGRAMS[name]())
    except Unsupported as exc:
        click.echo(exc.message, err=True)
        sys.exit(MISSING)


def _print(value: Any) -> None:
    click.echo(json.dumps(value))


if __name__ == "__main__":
    main()
