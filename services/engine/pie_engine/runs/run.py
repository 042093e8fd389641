"""A run: decoding ahead of the program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pie_engine.contexts.context import Context
from pie_engine.passes.history import TokenLog
from pie_engine.passes.outputs import History, Output, Probe, Sampler, answer_bytes
from pie_engine.runs.grammar import Both, Constraint
from pie_engine.runs.grammar_compiler import Compilation
from pie_engine.runs.pace import Pace
from pie_engine.runs.prompt_lookup import PromptLookup


@dataclass(frozen=True, slots=True)
class Guesses:
    """Tokens to try. `open`: they are yet to be filled in, by a draft model."""

    tokens: Sequence[int] = ()
    open: bool = False


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
    min_tokens: int = 0
    early_sampler: Sampler = field(default_factory=Sampler)
    """In place of `sampler` until `min_tokens` have been generated: stop ids are forbidden."""
    probes: Sequence[Probe] = ()
    """What else every drawn token comes with."""
    pace: Pace | None = None
    """Of guesses; None: no speculation."""
    lookup: PromptLookup | None = None
    log: TokenLog = field(default_factory=TokenLog)
    drafted_by_model: bool = False
    """Where `lookup` has nothing to propose."""
    compiling: Compilation | None = None
    """Its grammar, as long as it is not compiled."""
    constraint: Constraint | None = None
    generated: int = 0
    consumed: int = 0
    drafted: int = 0
    accepted: int = 0
    paused: bool = False
    ended: bool = False
    penalises: bool = field(init=False)
    """The sampler looks at what came before."""

    def __post_init__(self) -> None:
        self.penalises = self.sampler.penalises

    @property
    def asks_little(self) -> bool:
        """One token a row, whatever came before: no penalties, probes or grammar, no stop id forbidden any more."""
        return not (self.penalises or self.probes or self.constraint or self.generated < self.min_tokens)

    @property
    def ready(self) -> bool:
        """May decode: neither ended nor paused nor waiting for its grammar, and the program is not too far behind."""
        return not (self.ended or self.paused or self.compiling) and self.generated - self.consumed < self.window

    @property
    def end(self) -> int:
        """Rows up to here must be fed."""
        return len(self.context.tokens)

    @property
    def first_output(self) -> int | None:
        """Slot of the first row that is asked something."""
        return self.context.length - 1

    def answer_bytes(self, vocab: int) -> int:
        """What a step of it may answer with, beside tokens."""
        if not self.probes:
            return 0
        one = sum(answer_bytes(spec, vocab) for spec in self.probes)
        return one * (min(self.window, 1 + self.pace.most) if self.pace else 1)

    def guess(self, most: int, least: float) -> Guesses:
        """At most `most` tokens to try behind the pending one, each worth its row if it is right with a probability of
        `least`; never more than the run may still give."""
        if self.pace is None:
            return Guesses()
        room = min(
            self.window - (self.generated - self.consumed), self.max_tokens - self.generated, self.limit - self.end
        )
        wanted = min(most, room - 1, self.pace.wanted(self.context.length, least))
        found: Sequence[int] = self.lookup.propose(self.context.tokens, wanted) if self.lookup is not None else ()
        if self.constraint is not None:
            found = found[: self.constraint.accepts(found)]
        if found or wanted < 1 or not self.drafted_by_model:
            return Guesses(found)
        return Guesses([0] * wanted, open=True)

    def outputs(self, start: int, stop: int, drafts: Sequence[int] = ()) -> list[Output]:
        """What is wanted of rows at slots [start, stop) and of a row for each of `drafts` behind them; rows count from
        `start`.

        For every row the token first, then the probes.
        """
        last = len(self.context.tokens) - 1
        if not start <= last < stop:
            return []
        if self.asks_little and not drafts:
            return [Output(last - start, self.context.lineage.position(last) + 1, self.sampler)]
        tokens = self.log.with_drafts(self.context.tokens, drafts) if self.penalises else None
        masks = self.constraint.masks(drafts) if self.constraint is not None else None
        outputs: list[Output] = []
        for ahead in range(1 + len(drafts)):
            length = last + 1 + ahead
            sampler = self.early_sampler if self.generated + ahead < self.min_tokens else self.sampler
            if masks is not None:
                allowed = masks[ahead]
                sampler = replace(sampler, mask=allowed if sampler.mask is None else Both(sampler.mask, allowed))
            history = History(tokens[:length], self.start) if tokens is not None else None
            row, position = length - 1 - start, self.context.lineage.position(length - 1) + 1
            outputs.append(Output(row, position, sampler, history))
            outputs += [Output(row, position, probe) for probe in self.probes]
        return outputs
