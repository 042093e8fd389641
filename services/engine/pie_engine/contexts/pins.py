"""Pins: pages that stay in the pool although no context holds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import inf, isfinite

from pie_wire.errors import BadField, BadRequest, OutOfMemory, Overloaded
from pie_wire.messages import engine as wire
from pie_wire.messages.common import Account

from pie_engine.contexts.context import AccountUse, Context
from pie_engine.contexts.context_table import ContextTable
from pie_engine.limits import Limits
from pie_engine.memory.kv_cache import KvCache

MAX_SECONDS = 86_400.0
MAX_NAME = 256
MAX_NAMES = 256
"""Of one account."""
_SHARE = 0.5
"""Of the pool, and of an account's page cap, that pins may hold: the rest is left to contexts."""


@dataclass(slots=True)
class Pin:
    """Pages of one name until a time of the table's clock."""

    use: AccountUse
    pages: list[int] = field(default_factory=list[int])
    until: float = 0.0


class Pins:
    """All pins, by account and name. Their pages count as their account's."""

    def __init__(self, cache: KvCache, limits: Limits, table: ContextTable) -> None:
        self._cache = cache
        self._limits = limits
        self._table = table
        self._pins: dict[Account, dict[str, Pin]] = {}
        self._next = inf
        """No pin ends before."""

    def __len__(self) -> int:
        return sum(map(len, self._pins.values()))

    def held(self) -> Iterator[int]:
        """Pages held, once for every pin that holds them."""
        for names in self._pins.values():
            for pin in names.values():
                yield from pin.pages

    def held_by_account(self) -> dict[Account, int]:
        """How many pages the pins of each account hold."""
        return {account: sum(len(pin.pages) for pin in names.values()) for account, names in self._pins.items()}

    def check(self, context: Context, op: wire.Pin) -> int:
        """Tokens that need KV before the pin can hold them. Raises what makes it impossible."""
        if not op.name or len(op.name) > MAX_NAME:
            raise BadField(f"a pin needs a name of 1 to {MAX_NAME} characters")
        if not (isfinite(op.ttl) and 0.0 < op.ttl <= MAX_SECONDS):
            raise BadField(f"a pin lasts for up to {MAX_SECONDS:g} seconds, not {op.ttl}")
        if context.impure:
            raise BadRequest(
                f"context {context.id} has dropped tokens: pinned pages could not be found again, so export it instead"
            )
        pages = context.guest_length // self._limits.page_size
        if not pages:
            raise BadRequest(
                f"context {context.id} has {context.guest_length} tokens, less than a page of "
                f"{self._limits.page_size}: a pin of it would hold nothing"
            )
        self._check_quota(context, op.name, pages)
        return pages * self._limits.page_size

    def put(self, context: Context, op: wire.Pin, length: int) -> None:
        """Hold the pages of the first `length` tokens, which have KV, in place of what the name held. Raises
        OutOfMemory or Overloaded when others were quicker."""
        pages = length // self._limits.page_size
        self._check_quota(context, op.name, pages)
        use = context.use
        held = [self._cache.pinnable(context, index) for index in range(pages)]
        for page in held:
            self._cache.pool.share(page)
        self.remove(use.account, op.name)
        self._table.hold(use, pages)
        pin = Pin(use, held, self._table.clock() + op.ttl)
        self._pins.setdefault(use.account, {})[op.name] = pin
        self._next = min(self._next, pin.until)

    def remove(self, account: Account, name: str) -> None:
        """The account's name holds nothing any more."""
        names = self._pins.get(account, {})
        pin = names.pop(name, None)
        if pin is None:
            return
        if not names:
            del self._pins[account]
        for page in pin.pages:
            self._cache.pool.release(page)
        self._table.hold(pin.use, -len(pin.pages))

    def expire(self) -> None:
        """Remove those whose time is over. Looks at none while there cannot be any."""
        now = self._table.clock()
        if now < self._next:
            return
        pins = [(pin.until, account, name) for account, names in self._pins.items() for name, pin in names.items()]
        self._next = min((until for until, _, _ in pins if until > now), default=inf)
        for until, account, name in pins:
            if until <= now:
                self.remove(account, name)

    def _check_quota(self, context: Context, name: str, pages: int) -> None:
        use, size = context.use, self._limits.page_size
        names = self._pins.get(use.account, {})
        pin = names.get(name)
        if pin is None and len(names) >= MAX_NAMES:
            raise Overloaded(f"the account has {MAX_NAMES} pins: unpin some, or reuse their names")
        more = pages - (len(pin.pages) if pin is not None else 0)
        cap = use.account.page_cap
        if self._table.pinned + more > self._limits.pages * _SHARE or (cap and use.pinned + more > cap * _SHARE):
            raise OutOfMemory(
                f"{pages} pages to pin exceed the quota: pins hold at most {_SHARE:.0%} of an account's pages, "
                f"and all of them at most {_SHARE:.0%} of {self._limits.pages}"
            )
        # What has been promised room must still find it: a context waits for pages, never for the end of a pin.
        for other, tokens in _reaches(self._table.contexts):
            left = self._limits.pages - self._table.pinned - more
            theirs = other.account.page_cap
            if theirs:
                left = min(left, theirs - other.pinned - (more if other is use else 0))
            if tokens > left * size:
                raise OutOfMemory(f"{pages} pages to pin leave too few for a context that may need {tokens} tokens")


def _reaches(contexts: Iterable[Context]) -> Iterator[tuple[AccountUse, int]]:
    """Tokens that each context may come to hold KV of, without a further check."""
    for context in contexts:
        run = context.run
        most = context.length
        if run is not None and not run.ended:
            most = max(most, min(run.limit, run.start + run.max_tokens))
        yield context.use, most
