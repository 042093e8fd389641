"""Compiles grammars beside the loop and keeps what came out.

A grammar is foreign text for a large compiler: a process that may be killed sees it first, and only what came through
there is compiled in this one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from llguidance import LLMatcher
from pie_wire.errors import BadRequest, Overloaded, PieError, TooLarge, Unsupported, to_error
from pie_wire.grammar_check import CheckingProcess
from pie_wire.grammars import allowed_bits, new_matcher
from pie_wire.messages.engine import Grammar
from pie_wire.shares import Shares

from pie_runner.engines import Offload
from pie_runner.models import Model
from pie_runner.turns import Turns

CHECKER = "pie_wire.grammars"
MAX_TEXT = 256 << 10
MAX_CACHED = 64
MAX_CACHED_TEXT = 4 << 20
MAX_WAITING = 128
"""Grammars on their way, shared among tenants; each may take seconds."""

Then = Callable[[LLMatcher | None, PieError | None], None]


_Key = tuple[Model, str, str]


@dataclass(eq=False)
class _Entry:
    matcher: LLMatcher | None = None
    error: PieError | None = None
    done: bool = False
    lines: dict[str, Callable[[], None]] = field(default_factory=dict[str, "Callable[[], None]"])
    """By tenant in whose line it is, how to take it out of there: it is compiled in the turn that comes first."""
    waiting: list[Then] = field(default_factory=list[Then])


class GrammarCompiler:
    """One for all models of a runner. Failures of a grammar are kept as grammars are; those of the machine are not."""

    def __init__(self, offload: Offload, checking: CheckingProcess | None = None) -> None:
        """`offload` runs one call after the other, and none that anything urgent waits for."""
        self._turns = Turns(offload, 1)
        self._checking = checking or CheckingProcess(CHECKER)
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()
        self._under_way = Shares(MAX_WAITING)
        """Of those on their way, by tenant."""

    def compile(self, model: Model, source: Grammar, then: Then, tenant: str) -> Callable[[], None]:
        """Call with a matcher at the beginning, which must be copied, or with the error; at once if it is known, else
        when it is the turn of a tenant that asks for it. Returns how to forget the question.

        Raises:
            TooLarge: the text is. Overloaded: too many grammars wait.
        """
        if len(source.text) > MAX_TEXT:
            raise TooLarge(f"a grammar has at most {MAX_TEXT} characters, not {len(source.text)}")
        key = (model, source.kind, source.text)
        entry = self._entries.get(key) or _Entry()
        if not entry.done and tenant not in entry.lines:
            if self._under_way.take(tenant):
                self._entries[key] = entry
                self._queue(key, entry, source, tenant)
            elif not entry.lines:
                raise Overloaded(
                    f"{self._under_way.of(tenant)} grammars of tenant {tenant} wait to be compiled, its share of "
                    f"{MAX_WAITING}: try again"
                )
        self._entries.move_to_end(key)
        if entry.done:
            then(entry.matcher, entry.error)
            return lambda: None
        entry.waiting.append(then)
        return lambda: entry.waiting.remove(then) if then in entry.waiting else None

    def close(self) -> None:
        """End the process; what is under way fails."""
        self._checking.close()

    def _queue(self, key: _Key, entry: _Entry, source: Grammar, tenant: str) -> None:
        """In this tenant's line, though it may be in another one's already: nobody waits behind what others ask."""
        entry.lines[tenant] = self._turns.add(
            tenant,
            lambda: self._compiled(key[0], source),
            lambda result, error: self._finished(key, entry, result, error),
        )

    def _finished(self, key: _Key, entry: _Entry, result: object, error: Exception | None) -> None:
        for tenant, leave in entry.lines.items():
            leave()
            self._under_way.give_back(tenant)
        entry.lines.clear()
        entry.done = True
        entry.matcher = result if isinstance(result, LLMatcher) else None
        entry.error = None if error is None else to_error(error)
        if error is not None and type(error) is not BadRequest:
            # It may have been the machine: a child of BadRequest says that something took too long, say.
            del self._entries[key]
        self._evict()
        waiting, entry.waiting = entry.waiting, []
        for then in waiting:
            then(entry.matcher, entry.error)

    def _evict(self) -> None:
        text = sum(len(key[2]) for key in self._entries)
        for key in [key for key, entry in self._entries.items() if entry.done]:
            if len(self._entries) <= MAX_CACHED and text <= MAX_CACHED_TEXT:
                break
            del self._entries[key]
            text -= len(key[2])

    def _compiled(self, model: Model, source: Grammar) -> LLMatcher:
        """On a worker thread."""
        if model.follower is None:
            raise Unsupported(f"the tokenizer of model {model.name} cannot follow grammars")
        grammar = self._checking.check(model.vocabulary, source)
        matcher = new_matcher(model.follower, grammar)
        if matcher.is_error():
            raise BadRequest(f"the {source.kind} grammar cannot be compiled: {matcher.get_error()}"[:2000])
        # The first mask builds what the compiler has put off; copies have it then.
        allowed_bits(matcher, model.vocabulary.size)
        return matcher
