"""Grammars of programs, compiled off the step thread.

A grammar is foreign text for a large compiler: one may take for ever, one may want all memory, one may overflow a
stack. So it is compiled in a process of its own first (`grammar_check`), which is killed when it takes too long; only
what came through there is compiled here.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import structlog
from llguidance import LLMatcher, LLTokenizer
from pie_wire.errors import BadRequest, Overloaded, PieError, TooLarge, Unsupported, to_error
from pie_wire.grammar_check import SECONDS, CheckingProcess, Vocabulary
from pie_wire.grammars import load, new_matcher
from pie_wire.messages import engine as wire

from pie_engine.runs.grammar import Bits, Constraint

MAX_TEXT = 256 << 10
_CACHED = 64
_CACHED_TEXT = 4 << 20
_QUEUE = 64
_STACK = 16 << 20
_MASK_THREADS = 2

log = structlog.get_logger("pie.engine")


@dataclass(eq=False, slots=True)
class Compilation:
    """A grammar on its way. `done` is set last, in another thread."""

    source: wire.Grammar
    done: threading.Event = field(default_factory=threading.Event)
    matcher: LLMatcher | None = None
    error: PieError | None = None

    @property
    def transient(self) -> bool:
        """It failed, and not because of the text: a busy machine, a process that could not be started."""
        return self.done.is_set() and self.error is not None and type(self.error) is not BadRequest


class GrammarCompiler:
    """One model's grammars: a bounded queue, one compiling thread, its process, and a cache of what came out."""

    def __init__(
        self,
        tokenizer: bytes,
        vocab: int,
        eos: Sequence[int],
        notify: Callable[[], None],
        *,
        seconds: float = SECONDS,
    ) -> None:
        """`tokenizer` is the text of tokenizer.json; `notify` is called, in another thread, after each compilation.
        Nothing is started before the first grammar."""
        self.eos = frozenset(eos)
        self._vocabulary = Vocabulary(tokenizer.decode(), vocab, list(eos))
        self._notify = notify
        self._cache: OrderedDict[tuple[str, str], Compilation] = OrderedDict()
        self._queue: queue.Queue[Compilation | None] = queue.Queue(_QUEUE)
        self._thread: threading.Thread | None = None
        self._masks = ThreadPoolExecutor(_MASK_THREADS, "pie-masks")
        self._checking = CheckingProcess("pie_wire.grammars", seconds)
        self._tokenizer: LLTokenizer | None = None

    def compile(self, spec: wire.Grammar) -> Compilation:
        """Begin, or give what is known of this text for good. Raises TooLarge for a text beyond 256 KiB, Overloaded
        when too many wait."""
        if len(spec.text) > MAX_TEXT:
            raise TooLarge(f"a grammar has at most {MAX_TEXT} characters, not {len(spec.text)}")
        key = (spec.kind, spec.text)
        known = self._cache.get(key)
        if known is not None and not known.transient:
            self._cache.move_to_end(key)
            return known
        new = Compilation(spec)
        try:
            self._queue.put_nowait(new)
        except queue.Full:
            raise Overloaded(f"{_QUEUE} grammars wait to be compiled: try again") from None
        self._cache[key] = new
        self._cache.move_to_end(key)
        self._evict()
        if self._thread is None:
            before = threading.stack_size(_STACK)
            self._thread = threading.Thread(target=self._serve, name="pie-grammars", daemon=True)
            self._thread.start()
            threading.stack_size(before)
        return new

    def start(self, compilation: Compilation) -> Constraint:
        """A constraint at the beginning of a compiled grammar. Raises what its compilation failed with."""
        if compilation.error is not None:
            raise compilation.error
        if compilation.matcher is None:
            raise BadRequest("the grammar has not been compiled yet: wait until it is done")
        return Constraint(compilation.matcher.deep_copy(), self._vocabulary.size, self._submit)

    @property
    def process(self) -> int | None:
        """The compiling process, if it has been started."""
        return self._checking.pid

    def close(self) -> None:
        """End thread and process; compilations under way are not finished."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        if self._thread is not None:
            self._queue.put(None)
            self._checking.close()
            self._thread.join()
        self._masks.shutdown(wait=False, cancel_futures=True)

    def _submit(self, call: Callable[[], list[Bits]]) -> Future[list[Bits]]:
        return self._masks.submit(call)

    def _evict(self) -> None:
        text = sum(len(key[1]) for key in self._cache)
        while len(self._cache) > _CACHED or text > _CACHED_TEXT:
            key, _ = self._cache.popitem(last=False)
            text -= len(key[1])

    # -- in the compiling thread

    def _serve(self) -> None:
        while (job := self._queue.get()) is not None:
            try:
                job.matcher = self._compile(job.source)
            except PieError as exc:
                job.error = exc
            except BaseException as exc:
                # A panic of the compiler is no Exception, and must not end the only thread either.
                log.error("a grammar could not be compiled", kind=job.source.kind, exc_info=exc)
                job.error = to_error(exc)
            job.done.set()
            self._notify()

    def _compile(self, source: wire.Grammar) -> LLMatcher:
        if self._tokenizer is None:
            try:
                self._tokenizer = load(self._vocabulary)
            except ValueError as exc:
                raise Unsupported(f"this model's tokenizer cannot follow grammars: {exc}") from exc
        grammar = self._checking.check(self._vocabulary, source)
        matcher = new_matcher(self._tokenizer, grammar)
        if matcher.is_error():
            raise BadRequest(f"the {source.kind} grammar cannot be compiled: {matcher.get_error()}"[:2000])
        return matcher
