"""What one process may use: the runner's settings, and those that its tenant has instead."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from pie_wire.errors import LimitExceeded
from pie_wire.tenants import OwnLimits


def of_runner(name: str) -> str:
    """Where the operator sets a limit, unless a tenant has its own."""
    return f"`{name}` of the runner"


@dataclass(frozen=True)
class ProcessLimits:
    """Every limit has the name of the runner's setting, and errors say that name. Sizes in bytes, times in seconds."""

    memory: int = 512 << 20
    """Linear memory of the instance."""
    cpu_seconds: float = 0.0
    """Processor time, its host calls included; 0 is no limit."""
    wall_seconds: float = 0.0
    """From its first step to its end; 0 is no limit."""
    tokens: int = 0
    """Appended to contexts, fed to passes or generated, all contexts together; 0 is no limit. Forks and snapshots are
    free."""
    contexts: int = 0
    """Open at once; 0 is no limit."""
    pages: int = 0
    """Of KV, held by its contexts at once when all of it is computed; 0 is no limit. Shared pages count once for each
    context."""
    children: int = 0
    """Running at once, launched by it; 0 is no limit."""
    messages: int = 1024
    """From the client, that it has not received yet."""
    message_bytes: int = 8 << 20
    """Of these together."""
    output_bytes: int = 0
    """Messages, stdout and stderr together, over its whole life; 0 is no limit."""
    output_rate: int = 0
    """Bytes of output a second; a burst of one second's worth is free. Who is faster waits. 0 is no limit."""
    logits_bytes: int = 0
    """Rows of raw logits and hidden states that it may hold or have asked for at once; 0 is no limit."""
    http_requests: int = 32
    """Under way at once."""
    http_total: int = 0
    """All its life; 0 is no limit."""
    http_seconds: float = 300.0
    """From sending a request to the end of the response."""
    http_bytes: int = 64 << 20
    """Of a request's body, and of a response's."""
    file_bytes: int = 64 << 20
    """Of one file, also of one sent to or from the client."""
    scratch_bytes: int = 256 << 20
    """All its files in /scratch."""
    data_bytes: int = 1 << 30
    """All files of its user and program in /data."""
    file_entries: int = 10_000
    """Files and folders, in each of the two."""
    data_programs: int = 256
    """Programs of its user that have files in /data; 0 is no limit."""
    mcp_requests: int = 16
    """Calls of tool servers under way at once."""
    mcp_seconds: float = 60.0
    """One call."""
    mcp_bytes: int = 4 << 20
    """One answer."""
    tenant: str = ""
    """Whose own limits those named in `own` are."""
    own: frozenset[str] = frozenset()

    def of_tenant(self, tenant: str, own: OwnLimits) -> ProcessLimits:
        """These, and what the tenant has instead."""
        given = own.given()
        if not given:
            return self
        return dataclasses.replace(self, **given, tenant=tenant, own=frozenset(given))

    def where(self, name: str) -> str:
        """Where the operator set a limit."""
        return f"`{name}` of [{self.tenant}.process] in the file `tenants`" if name in self.own else of_runner(name)

    def exceeded(self, name: str, why: str) -> LimitExceeded:
        """The error of passing a limit."""
        return LimitExceeded(passed(name, getattr(self, name), why, self.where(name)))


def passed(name: str, amount: float, why: str, where: str) -> str:
    """Says that a program passed its limit `name`, which is `amount` and set at `where`."""
    shown = f"{amount:g}" if isinstance(amount, float) else str(amount)
    return f"the program passed its limit {name} = {shown} ({why}); the operator can raise it ({where})"
