"""Launches that wait for a runner: tenants in turn, and of each tenant first come first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class LaunchQueue(Generic[T]):
    """A line for each tenant, so that nobody waits behind another tenant that has no runner to go to."""

    def __init__(self) -> None:
        self._lines: dict[str, dict[str, T]] = {}
        """By tenant in the order of turns, and by process id in the order of arrival."""

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def add(self, tenant: str, pid: str, item: T) -> None:
        self._lines.setdefault(tenant, {})[pid] = item

    def put_back(self, tenant: str, pid: str, item: T) -> None:
        """Before all others of its tenant: it has been next already."""
        self._lines[tenant] = {pid: item, **self._lines.get(tenant, {})}

    def discard(self, tenant: str, pid: str) -> None:
        """It waits no more, if it did."""
        line = self._lines.get(tenant, {})
        line.pop(pid, None)
        if not line:
            self._lines.pop(tenant, None)

    def take(self, find: Callable[[str], R | None]) -> tuple[T, R] | None:
        """The next launch with the place that `find` has for its tenant; None when there is a place for no tenant."""
        for tenant, line in self._lines.items():
            place = find(tenant)
            if place is not None:
                pid = next(iter(line))
                item = line.pop(pid)
                del self._lines[tenant]
                if line:
                    self._lines[tenant] = line  # its next turn comes after those of all others
                return item, place
        return None

    def overdue(self, is_due: Callable[[T], bool]) -> list[T]:
        """Those that have waited too long. They stay until they are discarded."""
        found: list[T] = []
        for line in self._lines.values():
            for item in line.values():
                if not is_due(item):
                    break  # a line is in order of deadlines
                found.append(item)
        return found
