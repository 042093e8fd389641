"""What a benchmark prints: cases as JSON or a table, with the machine and versions they were taken on."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

_VERSIONS = ("pie-mq", "torch", "transformers", "wasmtime", "pyzmq", "msgspec")


def machine() -> dict[str, str | int]:
    """Processor, cores this process may use, memory."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    return {"cpu": cpu, "cores": cores, "memory_mb": memory, "system": platform.platform(terse=True)}


def versions() -> dict[str, str]:
    """Python and the packages that matter for speed, as installed."""
    found = {"python": platform.python_version()}
    for name in _VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class Published:
    """What a benchmark ends with: tables for a person, or all of its fields as one JSON object."""

    def json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    def show(self, *, as_json: bool, output: Path | None) -> None:
        """Print, and keep a JSON copy in `output` if given."""
        text = self.json()
        if output is not None:
            output.write_text(text + "\n")
        if as_json:
            sys.stdout.write(text + "\n")
        else:
            self.print_tables()

    def print_tables(self) -> None:
        """For a person."""
        raise NotImplementedError


@dataclass(frozen=True)
class Case:
    """A median over `samples` (their raw values)."""

    name: str
    value: float
    unit: str
    samples: list[float] = field(default_factory=list[float])


@dataclass(frozen=True)
class Report(Published):
    """Everything a reader needs to judge the figures."""

    benchmark: str
    cases: list[Case]
    setup: dict[str, str | int | float]
    machine: dict[str, str | int] = field(default_factory=machine)
    versions: dict[str, str] = field(default_factory=versions)
    taken_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def print_tables(self) -> None:
        """For a person."""
        table = Table(title=f"pie bench {self.benchmark}", caption=", ".join(f"{k} {v}" for k, v in self.setup.items()))
        table.add_column("case")
        table.add_column("median", justify="right")
        table.add_column("unit")
        table.add_column("min .. max", justify="right")
        for case in self.cases:
            spread = f"{min(case.samples):.1f} .. {max(case.samples):.1f}" if case.samples else ""
            table.add_row(case.name, f"{case.value:.1f}", case.unit, spread)
        Console().print(table)
