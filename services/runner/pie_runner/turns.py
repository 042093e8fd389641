"""Worker threads that tenants share: work that waits for one takes turns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pie_wire.lines import Lines
from pie_wire.shares import Shares

from pie_runner.engines import Offload

Then = Callable[[object, Exception | None], None]


@dataclass(eq=False, frozen=True)
class _Work:
    do: Callable[[], object]
    then: Then


class Turns:
    """Of `threads` threads behind `offload`, one tenant keeps no more busy than are left for others. Everything happens
    on the loop, where `offload` answers."""

    def __init__(self, offload: Offload, threads: int) -> None:
        self._offload = offload
        self._shares = Shares(threads)
        self._lines: Lines[_Work] = Lines()

    def of(self, tenant: str) -> Offload:
        """An Offload for work of this tenant."""

        def offload(work: Callable[[], object], then: Then) -> None:
            self.add(tenant, work, then)

        return offload

    def add(self, tenant: str, work: Callable[[], object], then: Then) -> Callable[[], None]:
        """The same, for who may no longer want it: what is returned takes it out of the line, unless it has begun."""
        item = _Work(work, then)
        self._lines.add(tenant, item)
        self._begin()
        return lambda: self._lines.discard(tenant, item)

    def _begin(self) -> None:
        while (next_one := self._lines.take(self._shares.taker)) is not None:
            self._run(*next_one)

    def _run(self, work: _Work, tenant: str) -> None:
        def ended(result: object, error: Exception | None) -> None:
            self._shares.give_back(tenant)
            try:
                work.then(result, error)  # which may take out of the line what would be next
            finally:
                self._begin()

        self._offload(work.do, ended)
