"""What one process has used of what it may."""

from __future__ import annotations

from collections.abc import Callable

from pie_wire.errors import LimitExceeded, TooLarge

from pie_runner.process_limits import ProcessLimits
from pie_runner.tenants import TenantUsage

MAX_EXPORTS = 4
"""Of one process, asked for and not taken yet: each may be as large as its context's KV."""
MAX_RESULTS = 64 << 20
"""Bytes of children's results that a process may hold and go on launching."""
MAX_MATCHERS = 256
"""Matchers of grammars that a process may hold; each is up to a few megabytes."""


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

    def __init__(self, limits: ProcessLimits, clock: Callable[[], float], tenant: TenantUsage | None = None) -> None:
        """`tenant`: what all processes of its tenant use, this one included."""
        self.limits = limits
        self._clock = clock
        self._tenant = tenant or TenantUsage()
        self.tokens = 0
        self.contexts = 0
        self.pages = 0
        self.exports = 0
        self.output = 0
        self.rows = 0
        """Bytes of rows held or asked for now."""
        self.results = 0
        """Bytes of children's results, until their handles are dropped."""
        self.matchers = 0
        self._spent_until = clock()
        """When the output so far would have been written at the allowed rate; at most a second behind the clock."""

    @property
    def tokens_left(self) -> int | None:
        """None without a limit."""
        left = self._tenant.tokens_left
        if not self.limits.tokens:
            return left
        mine = max(0, self.limits.tokens - self.tokens)
        return mine if left is None else min(mine, left)

    def spend_tokens(self, count: int) -> None:
        """Raises LimitExceeded, and spends nothing, when that many are not left."""
        left = self.tokens_left
        if left is not None and count > left:
            used = f"{self.tokens} were used and {count} more asked for"
            if self.limits.tokens and self.tokens + count > self.limits.tokens:
                raise self.limits.exceeded("tokens", used)
            raise self._tenant.exceeded("tokens", self._tenant.most_tokens, f"{self._tenant.tokens} are used")
        self.tokens += count
        self._tenant.tokens += count

    def check_tokens(self) -> None:
        """Raises LimitExceeded when not one token is left."""
        if self.tokens_left == 0:
            self.spend_tokens(1)

    def open_context(self) -> None:
        """Count one more. Raises LimitExceeded."""
        if self.limits.contexts and self.contexts >= self.limits.contexts:
            raise self.limits.exceeded("contexts", "close contexts that are no longer needed")
        self._tenant.check_contexts()
        self.contexts += 1
        self._tenant.contexts += 1

    def close_context(self) -> None:
        """One is gone."""
        self.contexts -= 1
        self._tenant.contexts -= 1

    def check_pages(self, more: int) -> None:
        """Raises LimitExceeded when its contexts may not hold so many pages more."""
        if more > 0:
            if self.limits.pages and self.pages + more > self.limits.pages:
                why = f"{self.pages} are held and {more} more were asked for: close or truncate contexts"
                raise self.limits.exceeded("pages", why)
            self._tenant.check_pages(more)

    def hold_pages(self, more: int) -> None:
        """So many more, or fewer, are held."""
        self.pages += more
        self._tenant.pages += more

    def end(self) -> TenantUsage:
        """The process has ended, and all its contexts are closed: what it used no longer counts for its tenant, nor
        does what its program might still do while it is unwound."""
        tenant, self._tenant = self._tenant, TenantUsage()
        tenant.tokens -= self.tokens
        tenant.contexts -= self.contexts
        tenant.pages -= self.pages
        return tenant

    def check_children(self, count: int) -> None:
        """Raises LimitExceeded when a process with `count` running children may have no other, TooLarge when it holds
        too much of what others returned."""
        if self.limits.children and count >= self.limits.children:
            raise self.limits.exceeded("children", "wait for some to end, or cancel them")
        if self.results >= MAX_RESULTS:
            raise TooLarge(
                f"{self.results} bytes of children's `results` are held, and there may be {MAX_RESULTS}: drop children "
                "that have ended first"
            )

    def begin_export(self) -> None:
        """Raises TooLarge when the process has too many exports that it did not take."""
        if self.exports >= MAX_EXPORTS:
            raise TooLarge(
                f"{MAX_EXPORTS} `exports` are under way or not taken yet, as many as may be: get one, or drop it, first"
            )
        self.exports += 1

    def end_export(self) -> None:
        """It was taken or dropped."""
        self.exports -= 1

    def spend_output(self, size: int) -> None:
        """Raises LimitExceeded when the whole life's output would be more than allowed."""
        if self.limits.output_bytes and self.output + size > self.limits.output_bytes:
            raise self.limits.exceeded("output_bytes", f"{self.output} bytes were written")
        self.output += size
        if self.limits.output_rate:
            self._spent_until = max(self._spent_until, self._clock() - 1.0) + size / self.limits.output_rate

    def hold_matcher(self) -> None:
        """Raises LimitExceeded when the process holds as many as it may."""
        if self.matchers >= MAX_MATCHERS:
            raise LimitExceeded(
                f"the program holds {MAX_MATCHERS} `matchers` of grammars, as many as it may: drop those it no longer "
                "needs"
            )
        self.matchers += 1

    def drop_matcher(self) -> None:
        """One less."""
        self.matchers -= 1

    def check_rows(self, size: int) -> None:
        """Raises LimitExceeded when rows of `size` bytes more may not be held."""
        if self.limits.logits_bytes and self.rows + size > self.limits.logits_bytes:
            raise self.limits.exceeded(
                "logits_bytes",
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
