"""Runs: decoding at the engine's own speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, cast

import msgspec
from pie_wire.errors import BadRequest, TooLarge
from pie_wire.messages.engine import Grammar, Speculation

from pie_runner.detokenizer import Detokenizer
from pie_runner.drains import PendingRest
from pie_runner.host import checks
from pie_runner.host.futures import waitable_id
from pie_runner.host.methods import method, reading
from pie_runner.host.probes import check_entries, probe
from pie_runner.host.samplers import SamplerRecord, sampler
from pie_runner.probes import Probe
from pie_runner.process import process_of
from pie_runner.runs import Run, RunSpec, StepResult
from pie_runner.text_stream import TextStream
from pie_runner.tokenizers import Tokenizer
from pie_runner.wasm.hostcall import Case, HostFunction, Ok, Pending

if TYPE_CHECKING:
    from pie_runner.contexts import Context
    from pie_runner.wasm.fiber import Fiber

MAX_WINDOW = 1024
MAX_STOP_STRINGS = 64
MAX_STOP_CHARACTERS = 1024
"""Of one stop string."""
MAX_GRAMMAR = 256 << 10
MAX_NGRAM = 16
MAX_DRAFTS = 64
MAX_PROBES = 16
MAX_FIELD = 1000
"""Characters of the name of the field in which text is sent."""
MAX_ROWS_AHEAD = 64
"""Whole rows of probes that a run may be ahead by."""
ROWS_AHEAD = 16
"""The same for a run that names no window."""


class GrammarSource(Protocol):
    """The WIT's `grammar-source`."""

    @property
    def kind(self) -> str: ...
    @property
    def text(self) -> str: ...


class SpeculationRecord(Protocol):
    """The WIT's `speculation`."""

    @property
    def ngram(self) -> int: ...
    @property
    def drafts(self) -> int: ...
    @property
    def model(self) -> bool: ...


class SpecRecord(Protocol):
    """The WIT's `spec`."""

    @property
    def sampler(self) -> SamplerRecord: ...
    @property
    def seed(self) -> int | None: ...
    @property
    def stop_ids(self) -> Sequence[int]: ...
    @property
    def stop_strings(self) -> Sequence[str]: ...
    @property
    def grammar(self) -> GrammarSource | None: ...
    @property
    def speculation(self) -> SpeculationRecord | None: ...
    @property
    def probes(self) -> Sequence[Case]: ...
    @property
    def max_tokens(self) -> int | None: ...
    @property
    def window(self) -> int | None: ...
    @property
    def text(self) -> bool: ...


def open_run(fiber: Fiber, context: Context, spec: SpecRecord) -> Run:
    """Open a run; an older one of the context is closed."""
    process = process_of(fiber)
    vocab = context.session.facts.vocab
    drawn_by = sampler(spec.sampler, vocab)
    if spec.max_tokens is not None and spec.max_tokens < max(1, drawn_by.min_tokens):
        raise BadRequest(f"max_tokens is {spec.max_tokens}: it must be at least 1, and at least min_tokens")
    probes = _probes(spec.probes, vocab)
    return context.open_run(
        RunSpec(
            sampler=drawn_by,
            seed=process.draws.seed() if spec.seed is None else spec.seed,
            stop=checks.ids(spec.stop_ids, "stop_ids", vocab) if spec.stop_ids else (),
            max_tokens=spec.max_tokens,
            window=_window(spec.window, process.facilities.window, probes),
            text=_text(spec, context.session.model.tokenizer),
            grammar=None if spec.grammar is None else grammar_of(spec.grammar),
            speculation=Speculation() if spec.speculation is None else _speculation(spec.speculation),
            probes=probes,
        )
    )


def grammar_of(source: GrammarSource) -> Grammar:
    """A grammar of a size that is read at all.

    Raises:
        BadRequest: of no kind that there is. TooLarge: a long text.
    """
    if len(source.text) > MAX_GRAMMAR:
        raise TooLarge(f"a grammar has at most {MAX_GRAMMAR} characters, not {len(source.text)}")
    match source.kind:
        case "json-schema" | "regex" | "lark" | "ebnf":
            return Grammar(source.kind, source.text)
        case kind:
            raise BadRequest(f"{kind!r} is no kind of grammar")


def next_step(_fiber: Fiber, run: Run) -> Ok | None:
    """The next step, or None when none is here."""
    run.check_free()
    step: StepResult | None = run.next()
    return None if step is None else Ok(step)


def take(fiber: Fiber, run: Run) -> StepResult | Pending:
    """The next step, as soon as it is here."""
    run.check_free()
    return run.taken(fiber, run.next)


def drain(fiber: Fiber, run: Run, send: Case | None) -> PendingRest:
    """The rest, taken here."""
    if send is None:
        return run.drain(None)
    forward = process_of(fiber).forward_text
    if send.tag == "text":
        return run.drain(forward)
    field = checks.text(cast("str", send.value), "the field", MAX_FIELD)
    return run.drain(lambda text, then: forward(msgspec.json.encode({field: text}).decode(), then))


def _text(spec: SpecRecord, tokenizer: Tokenizer) -> TextStream | None:
    stops = spec.stop_strings
    if not (spec.text or stops):
        return None
    if len(stops) > MAX_STOP_STRINGS or any(len(stop) > MAX_STOP_CHARACTERS for stop in stops):
        raise TooLarge(f"at most {MAX_STOP_STRINGS} stop strings of {MAX_STOP_CHARACTERS} characters each are allowed")
    if not all(stops):
        raise BadRequest("stop_strings: an empty string would end the run before it began")
    return TextStream(Detokenizer(tokenizer), stops, shown=spec.text)


def _speculation(record: SpeculationRecord) -> Speculation:
    if not 0 <= record.ngram <= MAX_NGRAM:
        raise BadRequest(f"speculation.ngram is {record.ngram}: it must be 0 (off) to {MAX_NGRAM}")
    if not 1 <= record.drafts <= MAX_DRAFTS:
        raise BadRequest(f"speculation.drafts is {record.drafts}: it must be 1 to {MAX_DRAFTS}")
    return Speculation(record.ngram, record.drafts, record.model)


def _probes(kinds: Sequence[Case], vocab: int) -> Sequence[Probe]:
    if len(kinds) > MAX_PROBES:
        raise TooLarge(f"a run has at most {MAX_PROBES} probes, not {len(kinds)}")
    probes = [probe(kind, vocab) for kind in kinds]
    check_entries(probes, vocab)
    return probes


def _window(window: int | None, usual: int, probes: Sequence[Probe]) -> int:
    rows = sum(probe.is_row for probe in probes)
    if window is None:
        return min(usual, max(1, ROWS_AHEAD // rows)) if rows else usual
    if not 1 <= window <= MAX_WINDOW:
        raise BadRequest(f"window is {window}: it must be 1 (lockstep) to {MAX_WINDOW}")
    if rows * window > MAX_ROWS_AHEAD:
        raise TooLarge(
            f"a run may be ahead of its program by {MAX_ROWS_AHEAD} whole rows, and its probes ask for {rows} with "
            f"each token: give it a window of at most {MAX_ROWS_AHEAD // rows}"
        )
    return window


FUNCTIONS: Mapping[str, HostFunction] = {
    "[static]run.open": open_run,
    "[method]run.id": waitable_id,
    "[method]run.next": next_step,
    "[method]run.take": take,
    "[method]run.drain": drain,
    "[method]run.close": method(Run.cancel),
    "[method]run.pause": method(Run.pause),
    "[method]run.resume": method(Run.resume),
    "[method]run.stats": reading(Run, lambda run: run.stats),
    "[method]pending-rest.id": waitable_id,
    "[method]pending-rest.get": method(PendingRest.get),
}
