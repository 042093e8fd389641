"""How soon a program runs, and how many fit into one process."""

from __future__ import annotations

import gc
import statistics
import time
from pathlib import Path

from pie_wire.errors import InternalError

from pie_runner.bench.figure import Figure, median
from pie_runner.bench.programs import Work
from pie_runner.bench.stand import Life, Stand

_LAUNCHES = 100
_P50 = {"tiny": (0.5, 0.2), "quickjs": (0.8, 0.4), "python": (4.0, 2.0)}
_LIVE = {"tiny": (5_000, 20_000), "quickjs": (3_000, 8_000), "python": (1_000, 2_000)}
_MEMORY = {"tiny": (0.08, 0.05), "quickjs": (0.4, 0.3), "python": (6.0, 4.0)}
_SPARE_MB = 2048
"""Left to the rest of the machine when programs are counted."""
_SPARE_MAPS = 5000
"""Mappings left to the rest of the process: one without any cannot even allocate."""
_BURST = 50


def launch(stand: Stand, name: str, rounds: int) -> list[Figure]:
    """Milliseconds from the launch of a loaded program to its first host call: one after the other, each killed then.

    The first call of guest code counts; what a language's SDK asks the host before is part of the way there.
    """
    guest = stand.guest(name)
    p50: list[float] = []
    p99: list[float] = []
    for _ in range(rounds + 1):
        times: list[float] = []
        for _ in range(_LAUNCHES):
            began = time.perf_counter()
            life = stand.launch(guest, Work(waits=1))
            stand.drive()
            times.append((time.perf_counter() - began) * 1000)
            _must_be_parked(life)
            stand.kill(life)
        p50.append(statistics.median(times))
        p99.append(statistics.quantiles(times, n=100)[98])
    must, wanted = _P50[name]
    note = f"{_LAUNCHES} launches a round"
    return [
        median(f"launch-p50-ms.{name}", "ms", p50[1:], must, wanted, note),
        median(f"launch-p99-ms.{name}", "ms", p99[1:], 3 * must, 3 * wanted, note),
    ]


def live(stand: Stand, name: str) -> list[Figure]:
    """Programs that are blocked in a host call at the same time, and the memory of each.

    Launches until the wanted number is there, or memory or the mappings of a process are nearly used up; whichever it
    was is the note.
    """
    guest = stand.guest(name)
    warm = [stand.launch(guest, Work(waits=1)) for _ in range(_BURST)]
    stand.drive()
    for life in warm:
        stand.kill(life)
    must, wanted = _LIVE[name]
    gc.collect()
    before, mapped = own_mb(), resident_mb()
    lives: list[Life] = []
    bound = "the wanted number was reached; memory would bound the next"
    while len(lives) < wanted:
        if available_mb() < _SPARE_MB:
            bound = f"the machine's memory: {_SPARE_MB} MB are left to others"
            break
        if maps() > most_maps() - _SPARE_MAPS:
            bound = f"vm.max_map_count = {most_maps()}: each program has mappings for its stack, memory and code"
            break
        lives += [stand.launch(guest, Work(waits=1)) for _ in range(_BURST)]
        stand.drive()
    each = (own_mb() - before) / len(lives)
    mapped = (resident_mb() - mapped) / len(lives)
    for life in lives:
        _must_be_parked(life)
    for life in lives:
        stand.kill(life)
    note = f"over {len(lives)} blocked programs; resident, with the shared pages of code for each: {mapped:.3g} MB"
    memory_must, memory_wanted = _MEMORY[name]
    return [
        Figure(f"live-programs.{name}", len(lives), "programs", must, wanted, note=bound),
        Figure(f"memory-mb.{name}", each, "MB", memory_must, memory_wanted, note=note),
    ]


def maps() -> int:
    """Mappings of this process."""
    with open("/proc/self/maps", "rb") as file:  # noqa: PTH123 - a kernel interface, not a file
        return sum(1 for _ in file)


def most_maps() -> int:
    """Mappings that a process may have."""
    return int(Path("/proc/sys/vm/max_map_count").read_text())


def own_mb() -> float:
    """Memory that would be free without this process: a page that it has mapped a thousand times counts once."""
    return _field("/proc/self/smaps_rollup", "Pss:")


def resident_mb() -> float:
    """Pages that this process has mapped, each as often as it is mapped."""
    return _field("/proc/self/status", "VmRSS:")


def available_mb() -> float:
    """Memory of the machine that could still be used."""
    return _field("/proc/meminfo", "MemAvailable:")


def _field(path: str, name: str) -> float:
    with open(path) as file:  # noqa: PTH123 - a kernel interface, not a file
        for line in file:
            if line.startswith(name):
                return int(line.split()[1]) / 1024
    raise InternalError(f"{path} has no {name}: this figure can be taken on Linux only")


def _must_be_parked(life: Life) -> None:
    if not life.is_parked:
        raise InternalError(f"a program of the benchmark did not wait: {life.ended}")
