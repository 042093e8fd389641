"""What one process may use. Every limit has the name of the runner's setting, and errors say that name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pie_wire.errors import LimitExceeded, TooLarge


@dataclass(frozen=True, slots=True)
class ProcessLimits:
    """Limits besides memory and processor time, which belong to the Wasm instance. 0 is no limit."""

    wall_seconds: float = 0.0
    """From its first step to its end."""
    tokens: int = 0
    """Appended to contexts, fed to passes or generated, all contexts together. Forks and snapshots are free."""
    contexts: int = 0
    """Open at once."""
    children: int = 0
    """Running at once, launched by it."""
    output_bytes: int = 0
    """Messages, stdout and stderr together, over its whole life."""
    output_rate: int = 0
    """Bytes of output a second; a burst of one second's worth is free. Who is faster waits."""
    logits_bytes: int = 0
    """Rows of raw logits and hidden states that it may hold or have asked for at once."""


def exceeded(name: str, amount: float, what: str) -> LimitExceeded:
    """The error of passing limit `name`, which is `amount`."""
    return LimitExceeded(
        f"the program passed its limit {name} = {amount:g} ({what}); the operator can raise it (`{name}` of the runner)"
    )


MAX_EXPORTS = 4
"""Of one process, asked for and not taken yet: each may be as large as its context's KV."""


class RowLease:
    """Bytes of rows that count as held until `close`, which may be called again."""

    __slots__ = ("_size", "_usage")

    def __init__(self, usage: Usage, size: int) -> None:
        self._usage = usage
        self._size = size

    def close(self) -> None:
        self._usage.rows -= self._size
        self._size = 0


class Usage:
    """What a process has used."""

    def __init__(self, limits: ProcessLimits, clock: Callable[[], float]) -> None:
        self.limits = limits
        self._clock = clock
        self.tokens = 0
        self.exports = 0
        self.output = 0
        self.rows = 0
        """Bytes of rows held or asked for now."""
        self._spent_until = clock()
        """When the output so far would have been written at the allowed rate; at most a second behind the clock."""

    @property
    def tokens_left(self) -> int | None:
        """None without a limit."""
        return max(0, self.limits.tokens - self.tokens) if self.limits.tokens else None

    def spend_tokens(self, count: int) -> None:
        """Raises LimitExceeded, and spends nothing, when that many are not left."""
        left = self.tokens_left
        if left is not None and count > left:
            raise exceeded("tokens", self.limits.tokens, f"{self.tokens} were used and {count} more asked for")
        self.tokens += count

    def check_tokens(self) -> None:
        """Raises LimitExceeded when not one token is left."""
        if self.tokens_left == 0:
            self.spend_tokens(1)

    def check_contexts(self, count: int) -> None:
        """Raises LimitExceeded when a process with `count` open contexts may have no other."""
        if self.limits.contexts and count >= self.limits.contexts:
            raise exceeded("contexts", self.limits.contexts, "close contexts that are no longer needed")

    def check_children(self, count: int) -> None:
        """Raises LimitExceeded when a process with `count` running children may have no other."""
        if self.limits.children and count >= self.limits.children:
            raise exceeded("children", self.limits.children, "wait for some to end, or cancel them")

    def begin_export(self) -> None:
        """Raises TooLarge when the process has too many exports that it did not take."""
        if self.exports >= MAX_EXPORTS:
            raise TooLarge(f"{MAX_EXPORTS} exports are under way or not taken yet: get one, or drop it, first")
        self.exports += 1

    def end_export(self) -> None:
        """It was taken or dropped."""
        self.exports -= 1

    def spend_output(self, size: int) -> None:
        """Raises LimitExceeded when the whole life's output would be more than allowed."""
        if self.limits.output_bytes and self.output + size > self.limits.output_bytes:
            raise exceeded("output_bytes", self.limits.output_bytes, f"{self.output} bytes were written")
        self.output += size
        if self.limits.output_rate:
            self._spent_until = max(self._spent_until, self._clock() - 1.0) + size / self.limits.output_rate

    def check_rows(self, size: int) -> None:
        """Raises LimitExceeded when rows of `size` bytes more may not be held."""
        if self.limits.logits_bytes and self.rows + size > self.limits.logits_bytes:
            raise exceeded(
                "logits_bytes",
                self.limits.logits_bytes,
                f"{self.rows} bytes of rows are held or asked for, and {size} more were wanted: drop rows, or give "
                "runs a smaller window",
            )

    def lease_rows(self, size: int) -> RowLease:
        """Hold rows of so many bytes. Raises LimitExceeded."""
        self.check_rows(size)
        self.rows += size
        return RowLease(self, size)

    @property
    def output_resumes_at(self) -> float:
        """Clock time from which the rate allows output; in the past when it does now."""
        return self._spent_until
