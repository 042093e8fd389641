"""What a context can have in the schedule: a run (see `run`), a lockstep pass (for guesses see
`verification`), a flush. Also the operations that wait
behind one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from pie_wire.messages import engine as wire

from pie_engine.contexts.context import Context
from pie_engine.contexts.lineage import Lineage
from pie_engine.memory.kv_cache import KvCache
from pie_engine.passes.device import Pages, Result
from pie_engine.passes.outputs import Output, PagesProbe, answer_bytes
from pie_engine.passes.page_moves import Buffer
from pie_engine.runs.run import Run
from pie_engine.runs.verification import Verification

Settled: TypeAlias = wire.DropTokens | wire.Commit | wire.Pin | wire.Prefetch
"""Operations that need KV first."""


@dataclass(eq=False, slots=True)
class Pass:
    """A lockstep pass: tokens that were appended to the context for it, and what is wanted of their rows."""

    op: int
    context: Context
    arrival: int
    base: int
    """Length before the pass's own tokens: what the context returns to if the pass fails."""
    wanted: Sequence[Output]
    """In the order of the request; rows are slots of the context."""
    results: list[Result | None] = field(default_factory=list["Result | None"])
    lineage: Lineage | None = None
    """The context's before the pass, if the pass has changed it otherwise than by adding to it."""
    found: int = 0
    """Tokens that the context had found in the cache before."""

    @property
    def end(self) -> int:
        return self.context.length

    @property
    def answered(self) -> int:
        """Outputs that it has."""
        return sum(result is not None for result in self.results)

    @property
    def first_output(self) -> int | None:
        missing = [wanted.row for wanted, result in zip(self.wanted, self.results, strict=True) if result is None]
        return min(missing, default=None)

    def answer_bytes(self, vocab: int) -> int:
        """What it answers with, beside tokens."""
        return sum(answer_bytes(output.spec, vocab) for output in self.wanted)

    def outputs(self, start: int, stop: int) -> list[Output]:
        return [
            Output(wanted.row - start, wanted.position, wanted.spec, wanted.history)
            for wanted in self._missing(start, stop).values()
        ]

    def deliver(self, start: int, stop: int, results: Sequence[Result]) -> None:
        """Results of `outputs(start, stop)`."""
        for index, result in zip(self._missing(start, stop), results, strict=True):
            self.results[index] = result

    def _missing(self, start: int, stop: int) -> dict[int, Output]:
        return {
            index: wanted
            for index, wanted in enumerate(self.wanted)
            if self.results[index] is None and start <= wanted.row < stop
        }

    @property
    def done(self) -> bool:
        return self.context.kv_length >= self.end and all(result is not None for result in self.results)


@dataclass(eq=False, slots=True)
class Flush:
    """Compute KV for the first `upto` tokens, by default for all the program has but the last; then carry out `then`,
    which needs it."""

    op: int
    context: Context
    arrival: int
    upto: int | None = None
    then: Settled | None = None
    found: int = 0
    """Tokens that the context had found in the cache before."""

    @property
    def end(self) -> int:
        return self.upto if self.upto is not None else max(0, self.context.guest_length - 1)

    @property
    def first_output(self) -> int | None:
        return None

    def answer_bytes(self, vocab: int) -> int:
        return 0

    def outputs(self, start: int, stop: int) -> list[Output]:
        return []

    @property
    def done(self) -> bool:
        return self.context.kv_length >= self.end


@dataclass(eq=False, slots=True)
class Export:
    """Compute KV for the first `end` tokens (all but the last, or none), then read the pages that hold it. The export
    is of the first `length`."""

    op: int
    context: Context
    arrival: int
    length: int
    end: int
    cache: KvCache
    size: int
    """Bytes of the answer, about."""
    data: bytes | None = None
    found: int = 0
    """Tokens that the context had found in the cache before."""

    def answer_bytes(self, vocab: int) -> int:
        """What it answers with."""
        return self.size

    @property
    def first_output(self) -> int | None:
        return None if self.done else self.end - 1

    def outputs(self, start: int, stop: int) -> list[Output]:
        last = self.end - 1
        if not start <= last < stop:
            return []
        pages, filled = self.cache.holding(self.context, self.end)
        return [Output(last - start, self.context.lineage.position(last) + 1, PagesProbe(tuple(pages), filled))]

    def deliver(self, results: Sequence[Result]) -> None:
        """Results of `outputs`."""
        for result in results:
            if isinstance(result, Pages):
                self.data = result.data

    @property
    def done(self) -> bool:
        return self.data is not None or not self.end


@dataclass(eq=False, slots=True)
class Import:
    """Give a context KV for `end` tokens from `data`, buffers with whole pages; `holes` are indices of pages that it
    does without."""

    op: int
    context: Context
    arrival: int
    end: int
    holes: Sequence[int]
    data: Sequence[Buffer]
    pages: int
    found: int = 0

    @property
    def first_output(self) -> int | None:
        return None

    def answer_bytes(self, vocab: int) -> int:
        return 0

    def outputs(self, start: int, stop: int) -> list[Output]:
        return []

    @property
    def done(self) -> bool:
        return self.context.kv_length >= self.end


Waiting: TypeAlias = Pass | Flush | Verification | Export | Import
"""Work that the program waits for; the context's later operations queue behind it."""

Work: TypeAlias = Run | Waiting


@dataclass(frozen=True, slots=True)
class Queued:
    """An operation that waits for earlier ones of its context."""

    number: int
    op: wire.Op
