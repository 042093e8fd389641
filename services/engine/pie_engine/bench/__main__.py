"""`python -m pie_engine.bench`: one measurement per call, in a process of its own, printed as one JSON object."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from pie_wire import logs
from pie_wire.errors import PieError

from pie_engine.config import EngineConfig

if TYPE_CHECKING:
    from pie_engine.bench.stand import Stand

_KV_MEMORY = "2GiB"
_UNCAPPED_MS = 60_000.0
"""A whole prompt in one step, as the cases say, however long the step."""


F = TypeVar("F", bound=Callable[..., None])


def _common(command: F) -> F:
    """Options of every measurement."""
    folder = click.Path(exists=True, file_okay=False, path_type=Path)
    for option in (
        click.option("--model", type=folder, required=True),
        click.option("--rounds", type=click.IntRange(1), default=7, show_default=True),
        click.option("--threads", type=click.IntRange(0), default=0, show_default=True, help="0: the engine's choice."),
    ):
        command = option(command)
    return command


@click.group()
def main() -> None:
    """Measure the engine without the services around it."""
    logs.setup("bench", level="warning", form="auto", name="bench")
    # As the service does, before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@main.command("list")
def list_measurements() -> None:
    """Names of cases and of groups of figures."""
    from pie_engine.bench.cases import CASES
    from pie_engine.bench.figures import GROUPS

    _print({"cases": [case.name for case in CASES], "groups": list(GROUPS)})


@main.command()
@click.argument("name")
@_common
def case(name: str, model: Path, rounds: int, threads: int) -> None:
    """Measure one case."""
    from pie_engine.bench.cases import CASES, measure

    chosen = next((case for case in CASES if case.name == name), None)
    if chosen is None:
        raise click.ClickException(f"there is no case {name}; `list` shows them")
    with _engine(model, threads) as bench:
        figures = measure(chosen, bench, model, rounds).as_json()
        _print({"setup": _setup(bench), "case": figures})


@main.command()
@click.argument("group")
@_common
def figures(group: str, model: Path, rounds: int, threads: int) -> None:
    """Measure a group of single figures."""
    from pie_engine.bench.figures import GROUPS

    if group not in GROUPS:
        raise click.ClickException(f"there is no group {group}; `list` shows them")
    with _engine(model, threads) as bench:
        _print({"setup": _setup(bench), "figures": [asdict(figure) for figure in GROUPS[group](bench, rounds)]})


@main.command()
@_common
def rival(model: Path, rounds: int, threads: int) -> None:
    """Measure `generate` of transformers beside the engine."""
    from pie_engine.bench.rival import compare

    with _engine(model, threads, EngineConfig.step_ms) as bench:
        _print({"setup": _setup(bench), "rivals": [asdict(each) for each in compare(bench, model, rounds)]})


@main.command()
@_common
def driven(model: Path, rounds: int, threads: int) -> None:
    """Answer requests of standard input: generations without the services around the engine."""
    from pie_engine.bench.driven import drive

    with _engine(model, threads, EngineConfig.step_ms) as bench:
        _print({"setup": _setup(bench)})
        for answer in drive(bench, sys.stdin):
            click.echo(answer)


@contextmanager
def _engine(model: Path, threads: int, step_ms: float = _UNCAPPED_MS) -> Generator[Stand]:
    from pie_engine.bench.stand import stand

    config = EngineConfig(model=str(model), kv_memory=_KV_MEMORY, threads=threads, step_ms=step_ms)
    try:
        with stand(config) as bench:
            yield bench
    except PieError as exc:
        raise click.ClickException(exc.message) from exc


def _setup(bench: Stand) -> dict[str, str]:
    info = bench.model.info
    return {"model": info.name, "dtype": info.dtype, "backend": info.backend}


def _print(value: Any) -> None:
    click.echo(json.dumps(value))


if __name__ == "__main__":
    main()
