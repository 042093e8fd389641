"""The runner by itself: `pie_runner.bench` measures, one process per measurement; here its figures are put together.

The runner's packages are not imported: memory and processor time of a measurement must be its own.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pie_wire.errors import BadField
from rich.console import Console
from rich.table import Table

from pie_bench import tax
from pie_bench.child import run_child
from pie_bench.report import Published, machine, versions

_LIST_SECONDS = 120.0
_SECONDS = 1800.0
_PASSES = 3
MODULE = "pie_runner.bench"


@dataclass(frozen=True)
class RunnerCase:
    """A median, and what it is held against: `baseline` is the bound of the case (the most it may be; of
    `live-programs` the least), `ratio` the value over it."""

    name: str
    value: float
    unit: str
    baseline: float
    ratio: float
    wanted: float
    samples: list[float]
    note: str


@dataclass(frozen=True)
class Skipped:
    """A measurement that could not be taken here, because a toolchain is missing."""

    name: str
    reason: str


@dataclass(frozen=True)
class RunnerReport(Published):
    """All figures, and what a reader needs to judge them."""

    cases: list[RunnerCase]
    setup: dict[str, str | int | float]
    skipped: list[Skipped] = field(default_factory=list[Skipped])
    benchmark: str = "runner"
    machine: dict[str, str | int] = field(default_factory=machine)
    versions: dict[str, str] = field(default_factory=versions)
    taken_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def print_tables(self) -> None:
        """For a person."""
        table = Table(title="pie bench runner", caption=", ".join(f"{k} {v}" for k, v in self.setup.items()))
        table.add_column("case", no_wrap=True)
        for column in ("value", "unit", "bound", "ratio"):
            table.add_column(column, justify="right", no_wrap=True)
        for case in self.cases:
            met = case.ratio >= 1 if case.unit == "programs" else case.ratio <= 1
            colour = "green" if met else "red"
            table.add_row(
                case.name,
                f"{case.value:.4g}",
                case.unit,
                f"{case.baseline:g}",
                f"[{colour}]{case.ratio:.2f}[/]",
            )
        for skipped in self.skipped:
            table.add_row(skipped.name, "skipped", "", "", "")
        console = Console()
        console.print(table)
        for case in self.cases:
            if case.note:
                console.print(f"{case.name}: {case.note}", style="dim", soft_wrap=True)
        for skipped in self.skipped:
            console.print(f"{skipped.name} was skipped: {skipped.reason}", style="yellow", soft_wrap=True)


def measure(names: Sequence[str], *, model: str, rounds: int, progress: Callable[[str], None]) -> RunnerReport:
    """Take the named measurements, or all.

    Rounds are interleaved over the measurements, so that a busy moment of the machine meets every case.

    Raises:
        BadField: no such measurement. InternalError: one failed.
    """
    alone: list[str] = run_child(MODULE, "list", timeout=_LIST_SECONDS)["measurements"]
    launches = [f"launch-1000.{name}" for name in tax.LAUNCHED]
    known = [*alone, *launches, "tax"]

    def is_chosen(name: str) -> bool:
        return not names or any(name == each or name.startswith(each + ".") for each in names)

    unknown = sorted(each for each in names if not any(name == each or name.startswith(each + ".") for name in known))
    if unknown:
        raise BadField(f"there is no measurement {', '.join(unknown)}: choose from {', '.join(known)}")
    passes = min(rounds, _PASSES)
    figures, skipped = measure_alone([name for name in alone if is_chosen(name)], passes, rounds, progress)
    many = [name.partition(".")[2] for name in launches if is_chosen(name)]
    if many:
        taken, missing = asyncio.run(tax.launches(many, model, passes, progress))
        figures += taken
        skipped += [Skipped(f"launch-1000.{name}", reason) for name, reason in missing.items()]
    if is_chosen("tax"):
        figures += asyncio.run(tax.tax(model, rounds, progress))
    return RunnerReport(combine(figures), {"rounds": rounds, "passes": passes, "model": model}, skipped)


def measure_alone(
    names: Sequence[str], passes: int, rounds: int, progress: Callable[[str], None]
) -> tuple[list[dict[str, Any]], list[Skipped]]:
    """Figures of measurements without services around the runner, and those that were skipped. Guests are built once.

    Raises:
        InternalError: one failed.
    """
    figures: list[dict[str, Any]] = []
    skipped: dict[str, Skipped] = {}
    each = str(-(-rounds // passes))
    with tempfile.TemporaryDirectory(prefix="pie-bench-") as built:
        for number in range(passes):
            for name in names:
                if name in skipped:
                    continue
                progress(f"pass {number + 1} of {passes}: {name}")
                arguments = ("measure", name, "--rounds", each, "--built", built)
                taken = run_child(MODULE, *arguments, timeout=_SECONDS)
                figures += taken["figures"]
                if taken["skipped"]:
                    skipped[name] = Skipped(name, taken["skipped"])
    return figures, list(skipped.values())


def combine(figures: Sequence[dict[str, Any]]) -> list[RunnerCase]:
    """Cases in the order in which they came first, each with the figures of all passes."""
    named: dict[str, list[dict[str, Any]]] = {}
    for figure in figures:
        named.setdefault(figure["name"], []).append(figure)
    return [_case(each) for each in named.values()]


def _case(figures: Sequence[dict[str, Any]]) -> RunnerCase:
    """One case of what all passes measured for it."""
    first = figures[0]
    samples = [sample for figure in figures for sample in (figure["samples"] or [figure["value"]])]
    value = statistics.median(samples)
    return RunnerCase(
        first["name"],
        value,
        first["unit"],
        first["must"],
        value / first["must"],
        first["wanted"],
        samples,
        first["note"],
    )
