"""A lockstep pass over guesses of the program's own: a chain, or a tree of alternatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from pie_wire.errors import PieError
from pie_wire.messages import engine as wire

from pie_engine.contexts.asking import make_sampler
from pie_engine.contexts.context import Context
from pie_engine.passes.device import Result
from pie_engine.passes.outputs import History, Output
from pie_engine.passes.segment import Intervals
from pie_engine.passes.trees import ROOT, ancestors, depths, intervals, walk


@dataclass(eq=False, slots=True)
class Verification:
    """Rows: what is left of the context, then the guesses, in one pass. See `trees`."""

    op: int
    context: Context
    arrival: int
    tokens: Sequence[int]
    parents: Sequence[int]
    asked: wire.Output
    vocab: int
    found: int = 0
    """Tokens that the context had found in the cache before it."""
    drawn: list[Result] = field(default_factory=list[Result])

    @property
    def end(self) -> int:
        """Rows up to here must be fed before the guesses, the last of them with the guesses."""
        return self.context.length

    @property
    def first_output(self) -> int | None:
        return self.context.length - 1

    def answer_bytes(self, vocab: int) -> int:
        """As of a run: tokens only."""
        return 0

    @property
    def done(self) -> bool:
        return bool(self.drawn)

    def outputs(self, start: int, stop: int) -> list[Output]:
        """A token behind the last token of the context and behind every guess, when [start, stop) has the former."""
        context, length = self.context, self.context.length
        if stop < length:
            return []
        base = context.lineage.position(length)
        wanted = [self._output(length - 1 - start, base, [])]
        for guess, depth in enumerate(depths(self.parents)):
            path = [self.tokens[i] for i in ancestors(self.parents, guess)]
            wanted.append(self._output(length - start + guess, base + depth + 1, path))
        return wanted

    def positions(self) -> list[int]:
        """Of the guesses."""
        base = self.context.lineage.position(self.context.length)
        return [base + depth for depth in depths(self.parents)]

    def masks(self) -> list[Intervals] | None:
        """Of the guesses; None for a chain, whose rows see all before them."""
        if all(parent == guess - 1 for guess, parent in enumerate(self.parents)):
            return None
        length = self.context.length
        # What a row appended now would see, without itself.
        (row,) = self.context.lineage.rows(length, length + 1) or [((0, length + 1),)]
        before = [(start, min(end, length)) for start, end in row if start < length]
        return intervals(self.parents, length, before)

    def accept(self, results: Sequence[Result]) -> PieError | None:
        """Take the drawn path into the context; its tokens and the one behind it are then in `drawn`. An error instead
        of a token on the way is returned, and nothing is changed."""
        path = walk(self.tokens, self.parents, results)
        drawn = [results[at + 1] for at in (ROOT, *path)]
        error = next((result for result in drawn if isinstance(result, PieError)), None)
        if error is None:
            self.drawn = drawn
            self.context.tokens.extend(self.tokens[guess] for guess in path)
        return error

    def _output(self, row: int, position: int, path: Sequence[int]) -> Output:
        asked, length = self.asked, self.context.length + len(path)
        generated = 0 if asked.start is None else length - asked.start
        early = generated < asked.sampler.min_tokens
        sampler = make_sampler(asked.sampler, asked.seed, self.vocab, asked.stop if early else ())
        history = None
        if sampler.penalises:
            tokens = np.asarray([*self.context.tokens, *path], dtype=np.int32)
            history = History(tokens, length if asked.start is None else asked.start)
        return Output(row, position, sampler, history)
