"""What the processes of each tenant use together on this runner. It is given back at the end of the process, however it
ends."""

from __future__ import annotations

from pie_wire.errors import LimitExceeded
from pie_wire.tenants import TenantLimits, TenantTable

from pie_runner.process_limits import ProcessLimits


class TenantUsage:
    """Of one tenant."""

    def __init__(
        self, name: str = "", limits: TenantLimits | None = None, process_limits: ProcessLimits | None = None
    ) -> None:
        self.name = name
        self.process_limits = process_limits or ProcessLimits()
        """Of each process that begins."""
        limits = limits or TenantLimits()
        self.most_contexts = limits.contexts or 0
        self.most_pages = limits.pages or 0
        self.most_tokens = limits.tokens or 0
        self.processes = 0
        self.contexts = 0
        self.pages = 0
        self.tokens = 0
        """Used by processes that have not ended."""

    @property
    def tokens_left(self) -> int | None:
        """None without a limit."""
        return max(0, self.most_tokens - self.tokens) if self.most_tokens else None

    def check_contexts(self) -> None:
        """Raises LimitExceeded when the tenant may open no other."""
        if self.most_contexts and self.contexts >= self.most_contexts:
            raise self.exceeded("contexts", self.most_contexts, f"{self.contexts} are open")

    def check_pages(self, more: int) -> None:
        """Raises LimitExceeded when the tenant may not hold so many more."""
        if self.most_pages and self.pages + more > self.most_pages:
            raise self.exceeded("pages", self.most_pages, f"{self.pages} are held and {more} more were asked for")

    def exceeded(self, what: str, most: int, why: str) -> LimitExceeded:
        """The error of passing a limit."""
        return LimitExceeded(
            f"the programs of tenant {self.name} passed their limit tenant_{what} = {most} together ({why}); wait for "
            f"some to end, or ask the operator to raise it (`tenant_{what}` of the runner, or `{what}` of "
            f"[{self.name}] in the file `tenants`)"
        )


class Tenants:
    """Tenants with processes on this runner."""

    def __init__(self, table: TenantTable, process_limits: ProcessLimits) -> None:
        """`process_limits`: what a process may use whose tenant has no limits of its own."""
        self._table = table
        self._process_limits = process_limits
        self._used: dict[str, TenantUsage] = {}

    def enter(self, tenant: str) -> TenantUsage:
        """A process begins."""
        usage = self._used.get(tenant)
        if usage is None:
            limits = self._table.of(tenant)
            own = self._process_limits.of_tenant(tenant, limits.process)
            usage = self._used[tenant] = TenantUsage(tenant, limits, own)
        usage.processes += 1
        return usage

    def leave(self, usage: TenantUsage) -> None:
        """It has ended, and given back what it used."""
        usage.processes -= 1
        if not usage.processes:
            self._used.pop(usage.name, None)
