"""Memory mappings: the kernel allows a process so many (`vm.max_map_count`), and thousands of programs reach that."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import structlog
from pie_wire.errors import Overloaded

LEAST = 5
"""Of a program that waits: its stack and its memory, each with guards. TypeScript has 6, Python 7."""
MOST = 32
"""Of one with as many memories as it may have."""
RESERVE = 4096
"""For everything else: a process without free mappings cannot be relied on to allocate anything."""
PAUSE = 0.25
"""Seconds at least between two counts: each lists all mappings, about a microsecond for one."""
_PIECE = 1 << 20

Offload = Callable[[Callable[[], object], Callable[[object, Exception | None], None]], None]

log = structlog.get_logger("pie.programs")


class Mappings:
    """What there are, as last counted, and for each program since then the most that it may have. They are counted, on
    a worker thread, only while that comes to more than half of what is allowed."""

    def __init__(self, allowed: int, count: Callable[[], int], offload: Offload) -> None:
        self.allowed = allowed
        self._count = count
        self._offload = offload
        self._counted = count()
        self._since = 0
        """Programs since that count began."""
        self._again_at = 0.0
        self._counts = False

    def capacity(self, wanted: int) -> int:
        """As many programs as wanted, or as there can be."""
        possible = max(1, (self.allowed - RESERVE) // LEAST)
        if wanted <= possible:
            return wanted
        log.warning(
            "capacity is lowered: the kernel allows too few memory mappings. Raise vm.max_map_count (sysctl) first",
            capacity=wanted,
            lowered_to=possible,
            max_map_count=self.allowed,
            enough=wanted * MOST + RESERVE,
        )
        return possible

    def check(self) -> None:
        """Raises Overloaded when there may not be enough for another program."""
        assumed = self._counted + (self._since + 1) * MOST
        usable = self.allowed - RESERVE
        if assumed > usable // 2:
            self._count_again()
        if assumed > usable:
            raise Overloaded(
                f"this runner uses about {self._counted} of the {self.allowed} memory mappings that the kernel allows "
                "it: try again when programs have ended, add runners, or raise vm.max_map_count"
            )

    def take(self) -> None:
        """Another program is instantiated now. Raises Overloaded."""
        self.check()
        self._since += 1

    def _count_again(self) -> None:
        now = time.monotonic()
        if self._counts or now < self._again_at:
            return
        self._counts = True
        self._again_at = now + PAUSE
        before = self._since

        def counted(result: object, error: Exception | None) -> None:
            self._counts = False
            if error is not None:
                log.error("memory mappings cannot be counted", reason=str(error))
            elif isinstance(result, int):
                self._counted = result
                self._since -= before

        self._offload(self._count, counted)


def mappings_of_this_process(offload: Offload) -> Mappings | None:
    """None where the kernel has no such bound."""
    try:
        allowed = int(Path("/proc/sys/vm/max_map_count").read_text())
    except (OSError, ValueError):
        return None
    return Mappings(allowed, count_mappings, offload)


def count_mappings() -> int:
    """Those of this process now."""
    found = 0
    file = os.open("/proc/self/maps", os.O_RDONLY)
    try:
        while part := os.read(file, _PIECE):
            found += part.count(b"\n")
    finally:
        os.close(file)
    return found
