"""The contexts of all runners, their accounts, and which of them may have work."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pie_wire.messages.common import Account

from pie_engine.contexts.context import AccountUse, Context, PinnedPages


class ContextTable:
    """Shared by everything that carries out operations.

    `active` has every context that may have work for a pass; the planner removes those that have none.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.contexts: dict[Context, None] = {}
        self.active: dict[Context, None] = {}
        self._pinned = PinnedPages()
        self._accounts: dict[Account, AccountUse] = {}
        self._arrivals = 0

    def use_of(self, account: Account) -> AccountUse:
        """The account's books, kept while it has contexts or pins."""
        return self._accounts.setdefault(account, AccountUse(account, pool=self._pinned))

    @property
    def pinned(self) -> int:
        """Pages that the pins of all accounts hold."""
        return self._pinned.count

    def hold(self, use: AccountUse, pages: int) -> None:
        """Pins of the account hold so many pages more (or fewer)."""
        use.pages += pages
        use.pinned += pages
        self._pinned.count += pages
        self.close(use)

    def share_of(self, use: AccountUse) -> float:
        """The account's part of the pool by weight, among accounts that have contexts."""
        total = sum(max(other.account.weight, 0.0) for other in self._accounts.values())
        return use.account.weight / total if total > 0 else 0.0

    def enter(self, context: Context) -> None:
        """A context begins; its link knows it from now on."""
        if context.id < 0:
            context.link.prefetches[context] = None
        else:
            context.link.contexts[context.id] = context
        context.use.contexts += 1
        self.contexts[context] = None

    def leave(self, context: Context) -> None:
        """The context has been freed."""
        context.gone = True
        if context.id < 0:
            context.link.prefetches.pop(context, None)
        else:
            context.link.contexts.pop(context.id, None)
        context.adapters.release()
        context.use.contexts -= 1
        self.close(context.use)
        self.contexts.pop(context, None)
        self.active.pop(context, None)

    def replace(self, context: Context, other: Context | None) -> None:
        """Whatever state the context is in, it is no more, and its id is that of `other`. Counts of accounts and
        adapters are left as they are (see `Books.recount`)."""
        context.gone = True
        # Its slots are others' from now on: whoever still knows it must not give them up again.
        context.swapped = None
        context.link.prefetches.pop(context, None)
        context.link.contexts.pop(context.id, None)
        self.contexts.pop(context, None)
        self.active.pop(context, None)
        if other is not None:
            other.link.contexts[other.id] = other
            self.contexts[other] = None

    def recount(self, pinned: Mapping[Account, int]) -> None:
        """Set what accounts hold to what their contexts hold and `pinned` says."""
        for use in self._accounts.values():
            use.pinned = use.pages = pinned.get(use.account, 0)
            use.contexts = 0
        for context in self.contexts:
            use = context.use = self._accounts.setdefault(context.use.account, context.use)
            use.contexts += 1
            use.pages += len(context.pages) - context.holes
        self._pinned.count = sum(pinned.values())
        for use in list(self._accounts.values()):
            self.close(use)

    def close(self, use: AccountUse) -> None:
        """Forget the account's books if it has neither contexts nor pins."""
        if not use.contexts and not use.pinned:
            self._accounts.pop(use.account, None)

    def arrival(self) -> int:
        """The next number in the order in which work arrives."""
        self._arrivals += 1
        return self._arrivals
