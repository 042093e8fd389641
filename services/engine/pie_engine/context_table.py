"""The contexts of all runners, their accounts, and which of them may have work."""

from __future__ import annotations

from collections.abc import Callable

from pie_wire.messages.common import Account

from pie_engine.context import AccountUse, Context


class ContextTable:
    """Shared by everything that carries out operations.

    `active` has every context that may have work for a pass; the planner removes those that have none.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.contexts: dict[Context, None] = {}
        self.active: dict[Context, None] = {}
        self._accounts: dict[Account, AccountUse] = {}
        self._arrivals = 0

    def use_of(self, account: Account) -> AccountUse:
        """The account's books, kept while it has contexts."""
        return self._accounts.setdefault(account, AccountUse(account))

    def enter(self, context: Context) -> None:
        """A context begins; its link knows it from now on."""
        context.link.contexts[context.id] = context
        context.use.contexts += 1
        self.contexts[context] = None

    def leave(self, context: Context) -> None:
        """The context has been freed."""
        context.adapters.release()
        context.use.contexts -= 1
        if context.use.contexts == 0:
            self._accounts.pop(context.use.account, None)
        self.contexts.pop(context, None)
        self.active.pop(context, None)

    def arrival(self) -> int:
        """The next number in the order in which work arrives."""
        self._arrivals += 1
        return self._arrivals
