"""What a program can wait for. Each process has one table of them; `futures.wait-any` parks on it."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import TYPE_CHECKING, TypeVar

from pie_wire.errors import PieError, TooLarge

from pie_runner.wasm.hostcall import Err, Ok, Pending

if TYPE_CHECKING:
    from pie_runner.wasm.fiber import Fiber

T = TypeVar("T")

MAX_WAITABLES = 65_536
FEW = 16
"""Ids that are looked through as fast as they are looked up."""


class Waitables:
    """The waitables of one process, by id, and the call that waits for some (a process makes one call at a time)."""

    def __init__(self) -> None:
        self._items: dict[int, Waitable] = {}
        self._next = 1
        self._parked: tuple[Sequence[int], Container[int], Pending] | None = None
        """What it asked for, in order and to look up, and its answer."""

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: Waitable) -> int:
        """Number a waitable.

        Raises:
            TooLarge: the program holds too many.
        """
        if len(self._items) >= MAX_WAITABLES:
            raise TooLarge(
                f"the program holds {MAX_WAITABLES} `waitables`, as many as it may: drop those it no longer needs"
            )
        number = self._next
        self._next += 1
        self._items[number] = item
        return number

    def remove(self, number: int) -> None:
        """Forget a waitable; repeats are harmless."""
        self._items.pop(number, None)

    def ready(self, ids: Sequence[int]) -> list[int]:
        """Those of `ids` that have something to get, in order. An unknown id counts as ready."""
        items = self._items
        return [i for i in ids if (item := items.get(i)) is None or item.ready]

    def wait(self, fiber: Fiber, ids: Sequence[int]) -> list[int] | Pending:
        """Ready ids now, or a Pending that answers with them."""
        found = self.ready(ids)
        if found:
            return found
        pending = Pending(fiber, self._abandoned)
        self._parked = (ids, ids if len(ids) <= FEW else frozenset(ids), pending)
        return pending

    def notify(self, number: int) -> None:
        """A waitable became ready."""
        if self._parked is not None and number in self._parked[1]:
            ids, _, pending = self._parked
            self._parked = None
            pending.resolve(self.ready(ids))

    def _abandoned(self) -> None:
        self._parked = None


class Waitable:
    """Base of the resources with `id` and a getter."""

    def __init__(self, table: Waitables) -> None:
        self._table = table
        self._taker: Pending | None = None
        """The call that sleeps until there is something to get."""
        self.id = table.add(self)

    @property
    def ready(self) -> bool:
        """Whether the getter has something."""
        raise NotImplementedError

    def notify(self) -> None:
        """Tell who waits that `ready` has become true."""
        taker = self._taker
        if taker is None:
            self._table.notify(self.id)
        else:
            self._taker = None
            taker.resolve()

    def taken(self, fiber: Fiber, take: Callable[[], T | None], then: Callable[[], None] | None = None) -> T | Pending:
        """What `take` gives, which is not None when this is ready; else a Pending that answers with that. `then` is
        called where nobody will take it any more. The program can do nothing else meanwhile."""
        if self.ready and (got := take()) is not None:
            return got
        pending = self._taker = Pending(fiber, then)
        pending.convert = lambda _: take()
        return pending

    def close(self) -> None:
        """The program dropped its handle, or has ended."""
        self._table.remove(self.id)


class Completion(Waitable):
    """The WIT's `done`: completes once, with or without an error, and keeps its answer."""

    def __init__(self, table: Waitables, on_close: Callable[[], None] | None = None) -> None:
        super().__init__(table)
        self._answer: Ok | Err | None = None
        self._on_close = on_close

    @property
    def ready(self) -> bool:
        return self._answer is not None

    def on_close(self, cancel: Callable[[], None]) -> None:
        """Call this when it is dropped without an answer."""
        self._on_close = cancel

    def complete(self, error: PieError | None = None) -> None:
        """Set the answer; later ones are ignored."""
        if self._answer is None:
            self._answer = Ok(None) if error is None else Err(error.info())
            self._on_close = None
            self.notify()

    def get(self) -> Ok | Err | None:
        return self._answer

    def close(self) -> None:
        super().close()
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()
