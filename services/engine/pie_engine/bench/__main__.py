"""`python -m pie_engine.bench`: one measurement per call, in a process of its own, printed as one JSON object."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click
from pie_wire import logs
from pie_wire.errors import PieError

from pie_engine.config import EngineConfig

_KV_MEMORY = "2GiB"
_UNCAPPED_MS = 60_000.0


@click.group()
def main() -> None:
    """Measure the engine without the services around it."""
    logs.setup("bench", level="warning", form="auto", name="bench")
    # As the service does, before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@main.command("list")
def list_cases() -> None:
    """Names of the cases."""
    from pie_engine.bench.cases import CASES

    _print([case.name for case in CASES])


@main.command()
@click.argument("name")
@click.option("--model", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True)
@click.option("--threads", type=click.IntRange(0), default=0, show_default=True, help="0: the engine's own policy.")
def case(name: str, model: Path, rounds: int, threads: int) -> None:
    """Measure one case."""
    from pie_engine.bench.cases import CASES, measure
    from pie_engine.bench.stand import stand

    chosen = next((case for case in CASES if case.name == name), None)
    if chosen is None:
        raise click.ClickException(f"there is no case {name}; `list` shows them")
    # A whole prompt in one step, as the case says, however long the step.
    config = EngineConfig(model=str(model), kv_memory=_KV_MEMORY, threads=threads, step_ms=_UNCAPPED_MS)
    try:
        with stand(config) as bench:
            info = bench.model.info
            figures = measure(chosen, bench, model, rounds).as_json()
    except PieError as exc:
        raise click.ClickException(exc.message) from exc
    _print({"model": info.name, "dtype": info.dtype, "backend": info.backend, "case": figures})


def _print(value: Any) -> None:
    click.echo(json.dumps(value))


if __name__ == "__main__":
    main()
