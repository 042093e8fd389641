"""Who rests. A host call that is handed megabytes cannot be cut: what can be done is to let few steps of others meet
one.

A slice beyond `LONG_SECONDS` is paid for by rest. Each tenant has some of that free, which comes back with time. Then
the program rests, and those who rest go on one after the other. Who starts a program while it rests waits too:
otherwise it would end after each call, to be launched again.
"""

from __future__ import annotations

from typing import TypeVar

LONG_SECONDS = 0.015
"""Of processor time in one slice: longer ones have a host call in them that could not be cut."""
REST = 50
"""For so many times as long as the slice was too long."""
FELT_SECONDS = 0.025
"""What 99 of 100 steps of others may be delayed by."""
FELT_REST = 8.0
"""Seconds that a longer one costs at least: of steps that take up to 80 ms, one of a hundred meets it."""
FREE = 5 * FELT_REST
"""Seconds of rest that a tenant is spared: a file of 64 MiB costs four or five such slices."""
MAX_KNOWN = 4096
"""Of tenants, or programs: beyond so many, those whose time has passed are forgotten."""

Payer = tuple[str, str]
"""Tenant and program."""
K = TypeVar("K")


class Rests:
    """Times are those of `time.perf_counter`, as the caller says them."""

    def __init__(self) -> None:
        self._until = 0.0
        """When the last of those who rest may go on."""
        self._whole: dict[str, float] = {}
        """When a tenant has all again that is free."""
        self._programs: dict[Payer, float] = {}
        """When a program may be started again."""

    def charge(self, payer: Payer, seconds: float, now: float, *, alone: bool = False) -> float:
        """A slice took so long. Returns until when its fiber rests, or 0. `alone`: nobody else had anything to do, so
        that it need not rest behind others."""
        if seconds <= LONG_SECONDS:
            return 0.0
        cost = (seconds - LONG_SECONDS) * REST
        if seconds > FELT_SECONDS:
            cost = max(cost, FELT_REST)
        tenant, _ = payer
        whole = max(self._whole.get(tenant, 0.0), now) + cost
        if whole <= now + FREE:
            self._whole[tenant] = whole
            return 0.0
        self._until = (now if alone else max(self._until, now)) + cost
        self._whole[tenant] = self._until + FREE
        self._programs[payer] = self._until
        _forget(self._whole, now)
        _forget(self._programs, now)
        return self._until

    def of(self, payer: Payer, now: float) -> float:
        """Until when nobody starts that program, or 0."""
        until = self._programs.get(payer, 0.0)
        return until if until > now else 0.0


def _forget(times: dict[K, float], now: float) -> None:
    if len(times) > MAX_KNOWN:
        for key in [key for key, at in times.items() if at <= now]:
            del times[key]
