"""Who rests. A host call that is handed megabytes cannot be cut: what can be done is to let few steps of others meet
one.

A slice beyond `LONG_SECONDS` is paid for by rest. Each tenant has some of that free, which comes back with time. Then
the program rests, and those of the tenant who rest go on one after the other. Who starts a program while it rests waits
too: otherwise it would end after each call, to be launched again. Nor does it help to launch another one each time:
while a tenant pays, those that it has not launched before start one at a time.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

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
MAX_PAYING = 8
"""Tenants that take turns with one another: beyond so many, each costs others as much as one alone does."""
MAX_TENANTS = 1024
"""That are remembered; who was seen longest ago is forgotten first."""
MAX_PROGRAMS = 64
"""That are remembered of a tenant; those used longest ago are unknown again."""

Payer = tuple[str, str]
"""Tenant and program."""


@dataclass(eq=False, slots=True)
class _Tenant:
    whole: float = 0.0
    """When it has all again that is free."""
    until: float = 0.0
    """When the last of those who rest may go on: it pays until then."""
    next_start: float = 0.0
    """While it pays: when the next unknown program may start."""
    pause: float = 0.0
    """What its last slice cost, and the next start waits for behind this one."""
    programs: OrderedDict[str, float] = field(default_factory=OrderedDict[str, float])
    """Those that have started, with the time when each may be started again."""

    def remember(self, program: str, until: float) -> None:
        self.programs[program] = until
        self.programs.move_to_end(program)
        if len(self.programs) > MAX_PROGRAMS:
            self.programs.popitem(last=False)


class Rests:
    """Times are those of `time.perf_counter`, as the caller says them. `alone`: nobody else had anything to do."""

    def __init__(self) -> None:
        self._tenants: OrderedDict[str, _Tenant] = OrderedDict()

    def charge(self, payer: Payer, seconds: float, now: float, *, alone: bool = False) -> float:
        """A slice took so long. Returns until when its fiber rests, or 0. Who is alone need not rest behind others."""
        if seconds <= LONG_SECONDS:
            return 0.0
        cost = (seconds - LONG_SECONDS) * REST
        if seconds > FELT_SECONDS:
            cost = max(cost, FELT_REST)
        tenant = self._of(payer[0])
        whole = max(tenant.whole, now) + cost
        if whole <= now + FREE:
            tenant.whole = whole
            return 0.0
        if not alone:
            cost *= self._paying(tenant, now)
        if tenant.next_start + cost <= now:
            tenant.next_start = now + cost  # and no later for what comes behind: somebody always starts
        tenant.until = (now if alone else max(tenant.until, now)) + cost
        tenant.pause = cost
        tenant.whole = tenant.until + FREE
        tenant.remember(payer[1], tenant.until)
        return tenant.until

    def start(self, payer: Payer, now: float, *, alone: bool = False) -> float:
        """Start that program, if that may be: then this returns 0, and else when to ask again."""
        tenant, program = self._of(payer[0]), payer[1]
        at = tenant.programs.get(program)
        if at is None:
            at = 0.0 if alone else min(tenant.next_start, tenant.until)
            if at <= now < tenant.until:
                tenant.next_start = now + max(tenant.pause, FELT_REST * self._paying(tenant, now))
        if at > now:
            return at
        tenant.remember(program, 0.0)
        return 0.0

    def pays(self, tenant: str, now: float) -> bool:
        """Some of its programs rest now."""
        known = self._tenants.get(tenant)
        return known is not None and known.until > now

    def _of(self, name: str) -> _Tenant:
        tenant = self._tenants.get(name)
        if tenant is None:
            tenant = self._tenants[name] = _Tenant()
            if len(self._tenants) > MAX_TENANTS:
                self._tenants.popitem(last=False)
        else:
            self._tenants.move_to_end(name)
        return tenant

    def _paying(self, tenant: _Tenant, now: float) -> int:
        """This tenant, and others that pay: each rests so many times as long, so that they take no more together."""
        others = sum(other.until > now for other in self._tenants.values() if other is not tenant)
        return min(1 + others, MAX_PAYING)
