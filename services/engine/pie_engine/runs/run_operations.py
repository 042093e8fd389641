"""Carries out what concerns runs: opening, consumption, closing, and the tokens that passes bring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pie_wire.errors import BadField, BadRequest, Conflict, InternalError, PieError, Unsupported
from pie_wire.messages import engine as wire
from pie_wire.messages.runner import RunEnd

from pie_engine.contexts.asking import make_probe, make_sampler, penalises
from pie_engine.contexts.checks import check_run, longest
from pie_engine.contexts.context import Context
from pie_engine.contexts.context_table import ContextTable
from pie_engine.limits import Limits
from pie_engine.links.answers import done, fail
from pie_engine.links.runner_link import RunnerLink
from pie_engine.memory.kv_cache import KvCache
from pie_engine.passes.device import Result
from pie_engine.runs.grammar_compiler import Compilation, GrammarCompiler
from pie_engine.runs.pace import Pace
from pie_engine.runs.prompt_lookup import PromptLookup
from pie_engine.runs.run import Run


@dataclass(frozen=True, slots=True)
class Drawn:
    """Tokens that a step drew for a run, how many of its drafts were right, and what went wrong after them, if so."""

    tokens: int
    right: int
    error: PieError | None


class RunOperations:
    """One run per context; see `Run`."""

    def __init__(self, cache: KvCache, limits: Limits, table: ContextTable, grammars: GrammarCompiler | None) -> None:
        self._cache = cache
        self._limits = limits
        self._table = table
        self._grammars = grammars
        self._compiling: dict[Run, None] = {}

    def open(self, context: Context, number: int, op: wire.OpenRun) -> None:
        """Begin decoding ahead. Raises what makes it impossible, having changed nothing."""
        if op.run in context.link.runs:
            raise Conflict(f"run id {op.run} is in use")
        check_run(context, op, self._limits)
        compilation = self._compile(op.grammar) if op.grammar is not None else None
        spec, vocab = op.sampler, self._limits.vocab
        stop = self._stop(op)
        by_model = op.speculation.model and op.grammar is None and not penalises(spec)
        run = Run(
            id=op.run,
            context=context,
            arrival=self._table.arrival(),
            sampler=make_sampler(spec, op.seed, vocab),
            stop=stop,
            max_tokens=op.max_tokens,
            window=op.window,
            limit=longest(context, self._limits),
            start=context.length,
            min_tokens=spec.min_tokens,
            early_sampler=make_sampler(spec, op.seed, vocab, sorted(stop)),
            probes=[make_probe(probe) for probe in op.probes],
            pace=Pace(op.speculation.drafts) if op.speculation.ngram or by_model else None,
            lookup=PromptLookup(op.speculation.ngram) if op.speculation.ngram else None,
            drafted_by_model=by_model,
            compiling=compilation,
        )
        context.run = context.link.runs[op.run] = run
        context.arrival = run.arrival
        self._table.active[context] = None
        if compilation is not None:
            if compilation.done.is_set():
                self.constrain(run)
            else:
                self._compiling[run] = None
        done(context.link, number)

    def _compile(self, grammar: wire.Grammar) -> Compilation:
        if self._grammars is None:
            raise Unsupported(
                "this model has no tokenizer.json, so the engine cannot follow grammars: choose tokens in the program"
            )
        return self._grammars.compile(grammar)

    def _stop(self, op: wire.OpenRun) -> frozenset[int]:
        """A grammar allows end tokens where it may end: they end the run, whatever else does."""
        ends = self._grammars.eos if op.grammar is not None and self._grammars is not None else ()
        return frozenset([*op.stop, *ends])

    def compiled(self) -> list[Run]:
        """Runs whose grammars need no more waiting, each once; `constrain` them."""
        ready = [run for run in self._compiling if run.ended or run.compiling is None or run.compiling.done.is_set()]
        for run in ready:
            del self._compiling[run]
        return ready

    def constrain(self, run: Run) -> None:
        """Let a run begin whose grammar has been compiled, or end it if that could not be."""
        compilation, run.compiling = run.compiling, None
        if run.ended or compilation is None or self._grammars is None:
            return
        self._table.active[run.context] = None
        try:
            run.constraint = self._grammars.start(compilation)
        except PieError as exc:
            self.end(run, "error", exc)

    def consume(self, link: RunnerLink, op: wire.Consume) -> None:
        """Counts are cumulative, so an old or repeated one changes nothing; a run that is gone needs no count."""
        run = link.runs.get(op.run)
        if run is not None and run.context.id == op.context:
            run.consumed = max(run.consumed, min(op.count, run.generated))
            self._cache.publish(run.context)
            self._table.active[run.context] = None

    def pause(self, link: RunnerLink, run_id: int, *, paused: bool) -> None:
        """Stop decoding ahead, or go on. What was decoded stays; a run that is gone needs neither."""
        run = link.runs.get(run_id)
        if run is not None:
            run.paused = paused
            self._table.active[run.context] = None

    def close(self, link: RunnerLink, number: int, op: wire.CloseRun) -> None:
        """The context becomes the run's start and what the program took, whether the run had ended or not.

        That is no less than what it has consumed: exports, pins and forks may rest on those tokens.
        """
        run = link.runs.pop(op.run, None)
        if run is None:
            self._withdraw(link, op)
            done(link, number)
            return
        context = run.context
        kept = max(run.consumed, min(op.count, run.generated))
        if not run.ended:
            self.end(run, "cancelled", wasted=run.generated - kept)
        consumed, run.consumed = run.consumed, kept
        context.run = None
        self._cache.truncate(context, run.start + kept)
        self._cache.publish(context)
        if op.count != kept:
            wrong = BadField(
                f"run {run.id} cannot be closed at {op.count} of {run.generated} tokens, {consumed} of them consumed; "
                f"it was closed at {kept}"
            )
            fail(context, number, wrong)
        else:
            done(link, number)

    def end(self, run: Run, reason: str, error: PieError | None = None, wasted: int = 0) -> None:
        """No more tokens will come; the run itself stays until it is closed."""
        if run.ended:
            return
        run.ended = True
        context = run.context
        info = error.info() if error is not None else None
        match reason:
            case "stop" | "length" | "cancelled" | "error":
                context.link.outbox.end(RunEnd(run.id, reason, info, context.found, wasted, run.drafted, run.accepted))
            case _:
                raise BadRequest(f"a run does not end by {reason!r}")
        context.found = 0

    def drawn(self, run: Run, drafts: Sequence[int], results: Sequence[Result]) -> Drawn:
        """What a step drew: for the pending token's row and, behind it, for each draft's. A row counts while all drafts
        before it are what was drawn in their places."""
        width = 1 + len(run.probes)
        tokens = right = 0
        error: PieError | None = None
        run.drafted += len(drafts)
        for at in range(0, len(results), width):
            token, *probed = results[at : at + width]
            error = next((result for result in (token, *probed) if isinstance(result, PieError)), None)
            if error is not None:
                error = (run.constraint.error if run.constraint is not None else None) or error
                break
            if not isinstance(token, int):
                raise InternalError("the device answered a run with something else than a token")
            guessed = tokens < len(drafts) and token == drafts[tokens]
            tokens += 1
            if guessed:
                right += 1
                run.accepted += 1
            self._take(run, token, probed)
            if run.ended or not guessed:
                break
        if run.pace is not None and drafts:
            run.pace.learn(len(drafts), right, run.context.length)
        return Drawn(tokens, right, error)

    def _take(self, run: Run, token: int, probed: Sequence[Result]) -> None:
        """The run's next token, with what its probes saw."""
        context = run.context
        if token in run.stop:
            self.end(run, "stop")
            return
        context.tokens.append(token)
        run.generated += 1
        context.link.outbox.token(run.id, token, probed)
        if run.constraint is not None:
            run.constraint.take(token)
            if run.constraint.finished:
                self.end(run, "stop")
                return
        if run.generated >= run.max_tokens or context.length >= run.limit:
            self.end(run, "length")

    def _withdraw(self, link: RunnerLink, op: wire.CloseRun) -> None:
        """Close a run whose opening still waits."""
        context = link.contexts.get(op.context)
        for item in context.queue if context is not None else ():
            if isinstance(item.op, wire.OpenRun) and item.op.run == op.run and context is not None:
                context.queue.remove(item)
                link.outbox.end(RunEnd(op.run, "cancelled"))
                done(link, item.number)
                return
