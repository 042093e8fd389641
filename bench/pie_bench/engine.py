"""The engine by itself: `pie_engine.bench` measures, one process per case; here its figures are put together.

The engine's packages are not imported: they need torch, and a case's peak memory must be its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pie_wire.config import pie_home
from pie_wire.errors import BadField, NotFound
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pie_bench.child import run_child
from pie_bench.report import Published, machine, versions

MODULE = "pie_engine.bench"
_LIST_SECONDS = 120.0
_CASE_SECONDS = 3600.0


@dataclass(frozen=True)
class EngineReport(Published):
    """`cases` are objects with at least name, ms_per_step, gemm_ms, ratio, tokens_per_s, peak_rss_mb; `figures` beside
    them have name, value, unit, and in `must` the most that the value may be or null. `rivals` have name, engine_ms,
    transformers_ms, ratio."""

    cases: list[dict[str, Any]]
    figures: list[dict[str, Any]]
    rivals: list[dict[str, Any]]
    setup: dict[str, str | int | float]
    benchmark: str = "engine"
    machine: dict[str, str | int] = field(default_factory=machine)
    versions: dict[str, str] = field(default_factory=versions)
    taken_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def print_tables(self) -> None:
        """For a person."""
        console = Console()
        if self.cases:
            console.print(self._table())
        for figure in self.figures:
            bound = "" if figure["must"] is None else f"  (at most {figure['must']:g})"
            console.print(f"{figure['name']:<24}{figure['value']:>10.4g} {figure['unit']}{bound}")
        for rival in self.rivals:
            times = f"{rival['engine_ms']:.4g} ms, transformers {rival['transformers_ms']:.4g} ms"
            console.print(f"{rival['name']:<24}{times}: {rival['ratio']:.2f} times as fast")

    def _table(self) -> Table:
        caption = ", ".join(f"{name} {value}" for name, value in self.setup.items())
        table = Table(title="pie bench engine", caption=caption, box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
        table.add_column("case", no_wrap=True)
        for column in ("ms/step", "gemm", "ratio", "paired", "bounds", "tok/s", "MB"):
            table.add_column(column, justify="right", no_wrap=True)
        for case in self.cases:
            judged = case.get("over_apart", case["ratio"])
            colour = "green" if judged <= case["must"] else "red"
            table.add_row(
                case["name"],
                f"{case['ms_per_step']:.4g}",
                f"{case['gemm_ms']:.4g}",
                f"{case['ratio']:.2f}",
                f"{case['paired_ratio']:.2f}",
                "" if "over_apart" in case else f"[{colour}]{case['must']:.2f}[/]/{case['wanted']:.2f}",
                f"{case['tokens_per_s']:.0f}",
                f"{case['peak_rss_mb']:.0f}",
            )
            if "over_apart" in case:
                bounds = f"[{colour}]{case['must']:.2f}[/]/{case['wanted']:.2f}"
                table.add_row("  over its halves", f"{case['apart_ms']:.4g}", "", f"{judged:.2f}", "", bounds)
        return table


def model_folder(model: str) -> Path:
    """The folder of a pulled model, or the path itself. NotFound if there is none."""
    for folder in (Path(model).expanduser(), pie_home() / "models" / model):
        if (folder / "config.json").is_file():
            return folder
    raise NotFound(f"there is no model {model}: `pie model pull {model}` gets it, `pie model ls` shows what is here")


def measure(
    model: str, names: Sequence[str], *, rounds: int, threads: int, rival: bool, progress: Callable[[str], None]
) -> EngineReport:
    """Measure the named cases and groups of figures (all, if none is named), with `rival` also transformers.

    Raises:
        NotFound: no such model. BadField: no such case. InternalError: a measurement failed.
    """
    folder = model_folder(model)
    known = known_names()
    everything = [*known["cases"], *known["groups"]]
    unknown = sorted(set(names) - set(everything))
    if unknown:
        raise BadField(f"there is no case {', '.join(unknown)}: choose from {', '.join(everything)}")
    setup: dict[str, str | int | float] = {"rounds": rounds, "threads": threads or "auto", "omp_wait_policy": "PASSIVE"}
    report = EngineReport([], [], [], setup)
    options = ("--model", str(folder), "--rounds", str(rounds), "--threads", str(threads))
    for name in names or everything:
        progress(name)
        measured = run_child(
            MODULE, "case" if name in known["cases"] else "figures", name, *options, timeout=_CASE_SECONDS
        )
        setup |= measured["setup"]
        if "case" in measured:
            report.cases.append(measured["case"])
        report.figures.extend(measured.get("figures", []))
    if rival:
        progress("transformers")
        report.rivals.extend(run_child(MODULE, "rival", *options, timeout=_CASE_SECONDS)["rivals"])
    return report


def known_names() -> dict[str, list[str]]:
    """What `pie_engine.bench` can measure: `cases` of the table and `groups` of figures beside it."""
    return run_child(MODULE, "list", timeout=_LIST_SECONDS)
