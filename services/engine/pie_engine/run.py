"""A run: decoding ahead of the program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pie_engine.batch import Output, OutputSpec, Sampler
from pie_engine.context import Context
from pie_engine.prompt_lookup import PromptLookup


@dataclass(eq=False, slots=True)
class Run:
    """Decodes ahead of the program by at most `window` tokens.

    With drafts a step has several rows: the pending token, then guesses of what follows. Every row is sampled as it
    would be alone, and a guess counts only if it is the very token that was drawn in its place; since draws are a
    function of seed and position, the tokens are those of a run without drafts, whatever the sampler.
    """

    id: int
    context: Context
    arrival: int
    sampler: Sampler
    stop: frozenset[int]
    max_tokens: int
    window: int
    limit: int
    """Length at which the context is full."""
    start: int
    """Length of the context when the run was opened."""
    probes: Sequence[OutputSpec] = ()
    """What else every drawn token comes with."""
    lookup: PromptLookup | None = None
    generated: int = 0
    consumed: int = 0
    drafted: int = 0
    accepted: int = 0
    paused: bool = False
    ended: bool = False

    @property
    def ready(self) -> bool:
        """May decode: neither ended nor paused, and the program is not too far behind."""
        return not (self.ended or self.paused) and self.generated - self.consumed < self.window

    @property
    def end(self) -> int:
        """Rows up to here must be fed."""
        return self.context.length

    @property
    def first_output(self) -> int | None:
        """Slot of the first row that is asked something."""
        return self.context.length - 1

    def guess(self, most: int) -> Sequence[int]:
        """At most `most` tokens to try behind the pending one; never more than the run may still give."""
        if self.lookup is None:
            return ()
        room = min(
            self.window - (self.generated - self.consumed), self.max_tokens - self.generated, self.limit - self.end
        )
        return self.lookup.propose(self.context.tokens, min(most, room - 1))

    def outputs(self, start: int, stop: int, drafts: int = 0) -> list[Output]:
        """What is wanted of rows at slots [start, stop) and of `drafts` rows behind them; rows count from `start`.

        For every row the token first, then the probes.
        """
        last = self.context.length - 1
        if not start <= last < stop:
            return []
        return [
            Output(slot - start, self.context.lineage.position(slot) + 1, spec)
            for slot in range(last, last + 1 + drafts)
            for spec in (self.sampler, *self.probes)
        ]
