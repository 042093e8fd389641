"""What a context can do with its pages, say about their worth, and know of them."""

from __future__ import annotations

import weakref
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from wit_world.imports import context as raw
from wit_world.imports import scheduling

from inferlet import loop
from inferlet.errors import PieError, host_errors, unwrap
from inferlet.model import Model


@dataclass(frozen=True)
class PageCount:
    """`committed`: sealed pages. `working`: those behind them with tokens. `room`: how many more it may have; None
    without a reservation."""

    committed: int
    working: int
    room: int | None


@dataclass(frozen=True)
class Receipt:
    """Pages left the pool, or are back (`restored`): why, how many, how they come or came back, after how many
    seconds."""

    restored: bool
    reason: str
    how: str
    tokens: int
    pages: int
    seconds: float


class Pages:
    """The part of a Context that is about memory."""

    _living: ClassVar[weakref.WeakSet[Pages]] = weakref.WeakSet()
    """Of this program; `scheduling.idle` is about all of them."""
    _handle: raw.Context | None
    _idle_depth = 0

    def __new__(cls, *_: object, **__: object) -> Pages:
        made = super().__new__(cls)
        Pages._living.add(made)
        return made

    @property
    def handle(self) -> raw.Context:
        """The host's resource. Raises PieError `closed` after `release`."""
        if self._handle is None:
            raise PieError("closed", "This context was released.")
        return self._handle

    # Pages

    async def drop_tokens(self, start: int, stop: int) -> None:
        """Forget the tokens [start, stop), which lie before the last one, and free the pages that hold nothing else.
        Lengths and positions stay."""
        with host_errors():
            done = self.handle.drop_tokens(start, stop)
        with done:
            unwrap(await loop.result(done))

    def reserve_pages(self, pages: int) -> None:
        """Room for so many working pages more; from now on the context may not outgrow its room."""
        with host_errors():
            self.handle.reserve(pages)

    async def commit_pages(self, pages: int) -> None:
        """Seal the first working pages, which must be full."""
        with host_errors():
            done = self.handle.commit(pages)
        with done:
            unwrap(await loop.result(done))

    def release_pages(self, pages: int) -> None:
        """Give up room for the last working pages; tokens in them vanish."""
        with host_errors():
            self.handle.release(pages)

    @property
    def pages(self) -> PageCount:
        count = self.handle.pages()
        return PageCount(count.committed, count.working, count.room)

    async def pin(self, name: str, ttl: float) -> None:
        """Keep the KV of the full pages in memory for `ttl` seconds, whatever becomes of the context."""
        with host_errors():
            done = self.handle.pin(name, round(ttl * 1e9))
        with done:
            unwrap(await loop.result(done))

    @staticmethod
    def unpin(model: Model, name: str) -> None:
        """Let go what a name holds, if anything."""
        with host_errors():
            raw.Context.unpin(model.handle, name)

    @staticmethod
    def prefetch(model: Model, name: str) -> bool:
        """Start to compute the KV of a saved context. False when there is none of that name."""
        with host_errors():
            return raw.Context.prefetch(model.handle, name)

    def set_adapters(self, adapters: Mapping[str, float] | Iterable[str]) -> None:
        """From the last token on, compute with these LoRA adapters and no others: their names, or names with factors.
        Empty: the plain model."""
        weights = adapters if isinstance(adapters, Mapping) else dict.fromkeys(adapters, 1.0)
        with host_errors():
            self.handle.set_adapters([raw.AdapterUse(name, weight) for name, weight in weights.items()])

    # Scheduling

    @contextmanager
    def idle(self) -> Generator[None]:
        """Inside of the block the context's run pauses, its bid counts as 0, and its pages are the first to go."""
        enter_idle([self])
        try:
            yield
        finally:
            leave_idle([self])

    def bid(self, value: float) -> None:
        """What its pages are worth: under pressure the lowest bid gives way first. 1 unless set."""
        with host_errors():
            scheduling.bid(self.handle, value)

    async def suspend(self) -> None:
        """Give the pages back now; any later operation brings them back."""
        with host_errors():
            done = scheduling.suspend(self.handle)
        with done:
            unwrap(await loop.result(done))

    def rent(self) -> float:
        """The price of pages times those held, in bids."""
        with host_errors():
            return scheduling.rent(self.handle)

    def balance(self) -> float:
        """Pages left of the account's share; negative when it lives on what others leave."""
        with host_errors():
            return scheduling.balance(self.handle)

    def receipts(self) -> list[Receipt]:
        """What became of its pages since the last call, oldest first."""
        return [
            Receipt(r.restored, r.reason, r.how, r.tokens, r.pages, r.seconds) for r in scheduling.receipts(self.handle)
        ]


def living() -> list[Pages]:
    """The program's contexts that have not been released."""
    return [context for context in Pages._living if context._handle is not None]


def enter_idle(contexts: Iterable[Pages]) -> None:
    """Scopes nest: the outermost one counts."""
    for context in contexts:
        if context._idle_depth == 0:
            with host_errors():
                scheduling.idle(context.handle, True)
        context._idle_depth += 1


def leave_idle(contexts: Iterable[Pages]) -> None:
    """Contexts released meanwhile need nothing."""
    for context in contexts:
        context._idle_depth -= 1
        if context._idle_depth == 0 and context._handle is not None:
            with host_errors():
                scheduling.idle(context.handle, False)
