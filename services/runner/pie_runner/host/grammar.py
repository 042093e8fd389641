"""Grammars, for programs that choose tokens themselves."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from llguidance import LLMatcher
from pie_wire.errors import PieError

from pie_runner.grammars.matcher import Grammar, Matcher
from pie_runner.host import checks
from pie_runner.host.generation import GrammarSource, grammar_of
from pie_runner.host.methods import method, reading
from pie_runner.host.model import ModelHandle
from pie_runner.host.offloaded import now_or_offloaded
from pie_runner.process import process_of
from pie_runner.wasm.hostcall import HostFunction, Ok, Pending

if TYPE_CHECKING:
    from pie_runner.wasm.fiber import Fiber

INLINE_TOKENS = 64
"""More are accepted beside the loop."""


def compile_grammar(fiber: Fiber, handle: ModelHandle, source: GrammarSource) -> Pending:
    """Compiled beside the loop, or known."""
    pending = Pending(fiber)

    def then(matcher: LLMatcher | None, error: PieError | None) -> None:
        if matcher is not None:
            pending.resolve(Grammar(matcher, handle.model.tokenizer))
        elif error is not None:
            pending.fail(error)

    process = process_of(fiber)
    grammars = process.facilities.grammars
    pending.on_abandon = grammars.compile(handle.model, grammar_of(source), then, process.scope.tenant)
    return pending


def matcher_of(fiber: Fiber, grammar: Grammar) -> Matcher:
    """At the beginning of a grammar."""
    return grammar.matcher(process_of(fiber).usage)


def accept(fiber: Fiber, matcher: Matcher, tokens: Sequence[int]) -> Ok | Pending:
    """Go on with tokens."""
    plain = checks.plain(tokens)
    return now_or_offloaded(fiber, lambda: Ok(matcher.accept(plain)), is_short=len(plain) <= INLINE_TOKENS)


def mask(fiber: Fiber, matcher: Matcher) -> str | Pending:
    """What may follow."""
    return now_or_offloaded(fiber, lambda: _mask(matcher), is_short=not matcher.is_slow)


def rollback(_fiber: Fiber, matcher: Matcher, tokens: int) -> Ok:
    """Take tokens back."""
    matcher.rollback(tokens)
    return Ok()


def _mask(matcher: Matcher) -> str:
    return base64.b64encode(matcher.mask()).decode("ascii")


FUNCTIONS: Mapping[str, HostFunction] = {
    "[static]grammar.compile": compile_grammar,
    "[method]grammar.matcher": matcher_of,
    "[method]matcher.accept": accept,
    "[method]matcher.mask": mask,
    "[method]matcher.complete": reading(Matcher, lambda matcher: matcher.complete),
    "[method]matcher.terminated": reading(Matcher, lambda matcher: matcher.terminated),
    "[method]matcher.forced": reading(Matcher, lambda matcher: matcher.forced),
    "[method]matcher.rollback": rollback,
    "[method]matcher.reset": method(Matcher.reset),
    "[method]matcher.fork": method(Matcher.fork),
}
